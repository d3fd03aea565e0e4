"""A data set that is a folder of images with one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import Dataset, Labels
from imgrec_engine.data.image import read_image
from imgrec_engine.errors import DataError

CACHE_BYTES = 256 * 1024 * 1024
"""Decoded images are kept in memory up to this many bytes per `ImageFolder`."""

_DECODERS = min(4, os.cpu_count() or 1)


class ImageFolder(Dataset):
    """The folders of `root`, sorted, are the classes; the files below each, sorted, are its images.

    Every file is decoded once when the set is made, so that its length is final and bad files show at once
    and not in the midst of training; that costs no more than one epoch's reading does. What was decoded is
    kept, up to 256 MiB. Names that begin with a dot are ignored. Links are followed, each real folder once.

    Attributes:
        skipped: (path, reason) of every file that is not a usable image.
        paths: the file of each item.

    Raises `DataError` where the folder is missing or has fewer than two classes, where a class has no image
    and, with `strict`, at the first file that would be skipped.

    """

    def __init__(self, root: str | Path, strict: bool = False) -> None:
        self.root = Path(root)
        self.classes = tuple(_class_names(self.root))
        self.skipped: list[tuple[Path, str]] = []
        self.paths: list[Path] = []
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._shapes: set[tuple[int, ...]] = set()
        labels: list[int] = []
        cached_bytes = 0
        for label, path, image in _decoded(self.root, self.classes):
            if isinstance(image, DataError):
                if strict:
                    raise image
                self.skipped.append((path, str(image).removeprefix(f"{path}: ")))
                continue
            cached_bytes += image.nbytes
            if cached_bytes <= CACHE_BYTES:
                self._cache[len(self.paths)] = image
            self._shapes.add(image.shape)
            self.paths.append(path)
            labels.append(label)
        self._labels = np.array(labels, np.int64)
        self._check_classes()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        image = self._cache.get(index)
        return read_image(self.paths[index]) if image is None else image, int(self._labels[index])

    @property
    def labels(self) -> Labels:
        """The labels of all images, int64 (N,)."""
        return self._labels

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape that all images share, or None where they differ."""
        return next(iter(self._shapes)) if len(self._shapes) == 1 else None

    def __getstate__(self) -> dict[str, Any]:
        # A worker process decodes what it needs; sending it the whole cache would cost more.
        return self.__dict__ | {"_cache": {}}

    def _check_classes(self) -> None:
        for label, name in enumerate(self.classes):
            if not np.any(self._labels == label):
                folder = self.root / name
                bad = [reason for path, reason in self.skipped if path.is_relative_to(folder)]
                found = f"{len(bad)} files, none usable (the first: {bad[0]})" if bad else "it is empty"
                raise DataError(f"{folder}: no image for class {name!r}: {found}")


def visible_entries(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without names that begin with a dot."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder" if not root.exists() else f"{root}: not a folder")
    visible = visible_entries(root)
    names = [entry.name for entry in visible if entry.is_dir()]
    if not visible:
        raise DataError(f"{root}: empty folder; it must hold one folder of images per class")
    if not names:
        raise DataError(f"{root}: {len(visible)} files but no folders; it must hold one folder of images per class")
    if len(names) == 1:
        raise DataError(f"{root}: only one class, {names[0]!r}; recognition needs at least two class folders")
    return names


def _decoded(root: Path, classes: tuple[str, ...]) -> Iterator[tuple[int, Path, NDArray[np.uint8] | DataError]]:
    """Yield (label, path, image or what is wrong with it) in order, decoding in a few threads."""
    found = [(label, path) for label, name in enumerate(classes) for path in visible_files(root / name)]
    block = 16 * _DECODERS  # bounds what is decoded and not yet taken
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="imgrec-decode") as pool:
        for start in range(0, len(found), block):
            part = found[start : start + block]
            for (label, path), image in zip(part, pool.map(_try_read, [p for _, p in part]), strict=True):
                yield label, path, image


def _try_read(path: Path) -> NDArray[np.uint8] | DataError:
    try:
        return read_image(path)
    except DataError as error:
        return error


def visible_files(folder: Path) -> list[Path]:
    """Return all visible files below `folder`, sorted; a folder met again (a loop of links) is left out."""
    files: list[Path] = []
    pending, seen = [folder], set()
    while pending:
        current = pending.pop()
        real = current.resolve()
        if real not in seen:
            seen.add(real)
            for entry in visible_entries(current):
                (pending if entry.is_dir() else files).append(entry)
    return sorted(files)
