"""Data sets by name or by path: one function for everything that can be loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgrec_engine.data import embedded, shared
from imgrec_engine.data.dataset import ConcatDataset, Dataset, Subset, strata
from imgrec_engine.data.folder import ImageFolder, visible_entries
from imgrec_engine.data.idx import find_idx_images, load_idx
from imgrec_engine.data.npz import NpzFile, read_npz
from imgrec_engine.errors import DataError

Read = Callable[[], Dataset]

_TEST_PERIOD = 4  # every fourth item of a class is held out where a set names no test part
_FOLDER_SPLITS = {"train", "val", "test"}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows: first the sets inside other packages, then the shared folder's.

    >>> "digits" in names()
    True
    """
    return (*embedded.SETS, *shared.SETS)


def load(source: str | Path, split: str = "train", strict: bool = False) -> Dataset:
    """Load one part of a data set: "train", "test", "all" or, where the set has one, "val".

    `source` is one of `names()`, or the path of a folder with a folder of images per class (or with `train`
    and `test` folders of that form), of a folder of IDX files, of an IDX image file, or of an `.npz` file.
    A set that names no test part of its own has every fourth item of each class, in the set's order, held
    out as its test part. With `strict`, a file in an image folder that is not a usable image is an error.

    Raises `DataError` for an unknown name or split and for anything that is wrong with the files.

    >>> load("digits", "test")
    Subset(445 items of 8x8x1, 10 classes)
    """
    parts = _parts(source, strict)
    if split not in parts:
        raise DataError(f"{source}: no split {split!r}; there are {', '.join(parts)}")
    return parts[split]()


def load_parts(source: str | Path, strict: bool = False) -> dict[str, Dataset]:
    """Load "train", "test" and, where the set has it, "val", as `load` gives them; what they share is read once.

    >>> load_parts("digits").keys()
    dict_keys(['train', 'test'])
    """
    parts = _parts(source, strict)
    if not {"train", "test"} <= parts.keys():
        raise DataError(f"{source}: no train and test parts; there are {', '.join(parts)}")
    loaded: dict[str, Dataset] = {name: parts[name]() for name in ("train", "val", "test") if name in parts}
    for name, part in loaded.items():
        if part.classes != loaded["train"].classes:
            classes = loaded["train"].classes
            raise DataError(f"{source}: the train part has the classes {classes}, but the {name} part {part.classes}")
    return loaded


def load_train_test(source: str | Path, strict: bool = False) -> tuple[Dataset, Dataset]:
    """Load the parts "train" and "test"."""
    parts = load_parts(source, strict)
    return parts["train"], parts["test"]


def _parts(source: str | Path, strict: bool) -> dict[str, Read]:
    """Return how to read each split of `source`."""
    if source in embedded.SETS:
        return _with_quarter_held_out(embedded.SETS[str(source)])
    if source in shared.SETS:
        return _with_all(shared.parts(str(source)))
    path = Path(source)
    if path.is_dir():
        return _folder_parts(path, strict)
    if not path.exists():
        raise DataError(f"{source}: neither a file, a folder nor a known data set; known are {', '.join(names())}")
    if path.suffix == ".npz":
        return _npz_parts(path)
    beside = find_idx_images(path.parent)
    if path in beside.values() and len(beside) == 2:
        return _with_all(shared.idx_parts(path.parent, ()))
    return _with_quarter_held_out(lambda: load_idx(path))


def _npz_parts(path: Path) -> dict[str, Read]:
    keys = NpzFile(path).keys
    if "clip_start" in keys:
        return _with_all(shared.fir_action_parts(path))
    if "train_templates" in keys:
        return _with_all(shared.template_parts(path))
    sets = read_npz(path)
    if sets.keys() == {"all"}:
        return _with_quarter_held_out(lambda: sets["all"])
    return _with_all({name: functools.partial(sets.__getitem__, name) for name in sets})


def _folder_parts(folder: Path, strict: bool) -> dict[str, Read]:
    if len(find_idx_images(folder)) == 2:
        return _with_all(shared.idx_parts(folder, ()))
    below = {entry.name for entry in visible_entries(folder) if entry.is_dir()}
    if {"train", "test"} <= below <= _FOLDER_SPLITS:
        return _with_all({name: functools.partial(ImageFolder, folder / name, strict) for name in sorted(below)})
    return _with_quarter_held_out(lambda: ImageFolder(folder, strict))


def _with_all(parts: dict[str, Read]) -> dict[str, Read]:
    """Add "all", the parts one after another, where a set does not have it."""
    cached: dict[str, Read] = {name: functools.cache(read) for name, read in parts.items()}
    joined: dict[str, Read] = {"all": lambda: ConcatDataset([read() for read in cached.values()])}
    return joined | cached


def _with_quarter_held_out(read: Read) -> dict[str, Read]:
    whole = functools.cache(read)
    return {
        "train": lambda: _every_fourth(whole(), held_out=False),
        "test": lambda: _every_fourth(whole(), held_out=True),
        "all": whole,
    }


def _every_fourth(dataset: Dataset, held_out: bool) -> Subset:
    """Return every fourth item of each class (of all where labels are strings), or the rest."""
    chosen = np.zeros(len(dataset), bool)
    for members in strata(dataset):
        chosen[members[_TEST_PERIOD - 1 :: _TEST_PERIOD]] = True
    return Subset(dataset, np.flatnonzero(chosen == held_out))
