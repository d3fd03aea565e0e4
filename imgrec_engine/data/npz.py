"""Image sets in one NumPy `.npz` file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from imgrec_engine.data.dataset import ArrayDataset, contiguous_labels
from imgrec_engine.errors import DataError

MAX_BYTES = 4 * 1024**3
"""Arrays of more bytes are refused."""

SPLITS = ("train", "val", "test")

_KEY_STYLES = ("{split}_images {split}_labels", "x_{split} y_{split}", "X_{split} y_{split}")


class NpzFile:
    """The arrays of an `.npz` file, each read when asked for; nothing is unpickled.

    Each array's header is checked against the bytes that the archive holds before it is read.
    Raises `DataError` naming the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        except Exception as error:  # zipfile answers damage with many kinds of exception
            raise DataError(f"{self.path}: not an npz file: {error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._members

    @property
    def keys(self) -> list[str]:
        """The names of the arrays."""
        return list(self._members)

    def __getitem__(self, key: str) -> NDArray[Any]:
        if key not in self:
            raise DataError(f"{self.path}: no array {key!r}; it holds {', '.join(self.keys)}")
        info = self._members[key]
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._check_header(archive, info)
                with archive.open(info) as stream:
                    return npy.read_array(stream, allow_pickle=False)
        except DataError:
            raise
        except Exception as error:  # as above
            raise DataError(f"{self.path}: array {key!r} is damaged: {error}") from error

    def _check_header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        with archive.open(info) as stream:
            version = npy.read_magic(stream)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(stream)
            expected = stream.tell() + math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{self.path}: array {info.filename!r} holds Python objects; only plain arrays are read")
        if expected != info.file_size or expected > MAX_BYTES:
            raise DataError(
                f"{self.path}: array {info.filename!r} of shape {shape} would have {expected} bytes, but the "
                f"file holds {info.file_size} and the limit is {MAX_BYTES}"
            )


def read_npz(path: str | Path, classes: Sequence[str] = ()) -> dict[str, ArrayDataset]:
    """Read an image set from an `.npz` file: its parts by name ("train", "val", "test"), or one named "all".

    Images and labels are the arrays `train_images` and `train_labels` (and so for `val` and `test`), or
    `x_train` and `y_train`, or `images` and `labels` with an optional `split` (0 train, 1 test). Class
    names come from `classes`, else from the array `classes` or `class_names`; without names the distinct
    labels of all parts are numbered in ascending order. Labels (N, S) are strings, which need names of their
    classes: without them they may as well be one-hot.
    """
    file = NpzFile(path)
    parts = {split: (file[images], file[labels]) for split, (images, labels) in _image_keys(file).items()}
    if not classes:
        names = next((file[key] for key in ("classes", "class_names") if key in file), None)
        classes = () if names is None else [str(name) for name in names.ravel()]
    try:
        if not classes:
            strings = next((labels.shape for _, labels in parts.values() if labels.shape[1:] not in ((), (1,))), None)
            if strings:
                raise DataError(
                    f"labels of shape {strings} are strings only where an array 'classes' names their classes"
                )
            ends = np.cumsum([len(labels) for _, labels in parts.values()])[:-1]
            joined, classes = contiguous_labels(np.concatenate([labels.ravel() for _, labels in parts.values()]))
            numbers = dict(zip(parts, np.split(joined, ends), strict=True))
            parts = {split: (images, numbers[split]) for split, (images, _) in parts.items()}
        sets = {split: ArrayDataset(images, labels, classes) for split, (images, labels) in parts.items()}
        if "all" in sets and "split" in file:
            sets |= by_split(sets["all"], file["split"])
    except (DataError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    return sets


def _image_keys(file: NpzFile) -> dict[str, tuple[str, str]]:
    for style in _KEY_STYLES:
        keys = {split: tuple(style.format(split=split).split()) for split in SPLITS}
        found = {split: (images, labels) for split, (images, labels) in keys.items() if images in file}
        if found:
            return found
    if "images" in file:
        return {"all": ("images", "labels")}
    raise DataError(f"{file.path}: no images; expected an array train_images, x_train or images among {file.keys}")


def by_split(whole: ArrayDataset, marks: NDArray[Any]) -> dict[str, ArrayDataset]:
    """Return the parts "train", marked 0, and "test", marked 1; `DataError` for other marks."""
    if marks.shape != (len(whole),) or not np.isin(marks, (0, 1)).all():
        raise DataError(f"split must hold 0 (train) or 1 (test) for each of {len(whole)} images")
    return {
        name: ArrayDataset(whole.images[marks == mark], whole.labels[marks == mark], whole.classes)
        for mark, name in enumerate(("train", "test"))
    }
