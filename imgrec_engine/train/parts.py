"""How a run divides its data: what it learns from, what it chooses by, and what it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data import ArrayDataset, Dataset, ImageFolder, Subset, leave_group_out, load, load_parts, split
from imgrec_engine.data.dataset import strata
from imgrec_engine.errors import DataError
from imgrec_engine.train.config import RunConfig

Groups = NDArray[Any]


class Parts(NamedTuple):
    """The three parts; no item is in two of them, and ``validation`` may be empty."""

    train: Dataset
    validation: Dataset
    test: Dataset


def divide(config: RunConfig) -> Parts:
    """The parts that a configuration asks for; DataError where there are too few images, or no such group."""
    if config.left_out is None:
        parts = load_parts(config.data, config.strict)
        whole, own, test = parts["train"], parts.get("val"), parts["test"]
    else:
        whole, test = leave_group_out(_grouped(config.data)[0], [config.left_out])
        own = None
    _check_counts(whole, test, config)
    if config.validation == 0:
        return Parts(whole, Subset(whole, []), test)
    if own is not None:
        return Parts(whole, own, test)
    groups = groups_of(whole)
    if groups is not None:
        return Parts(*_split_groups(whole, groups, config), test)
    smallest = min(map(len, strata(whole)))
    if smallest < 2:
        raise DataError(f"{config.data}: too few images: a class has only one to train on, and none to validate by")
    return Parts(*split(whole, max(config.validation, 1 / smallest), config.seed), test)


def groups_in(data: str) -> list[int]:
    """The groups of a data set, in ascending order; DataError where it has none.

    >>> groups_in("digits")
    Traceback (most recent call last):
    imgrec_engine.errors.DataError: digits does not say from whom or what each item is, so no group can be left out
    """
    return [int(group) for group in np.unique(_grouped(data)[1])]


def _grouped(data: str) -> tuple[ArrayDataset, Groups]:
    whole = load(data, "all")
    if not isinstance(whole, ArrayDataset) or whole.groups is None:
        raise DataError(f"{data} does not say from whom or what each item is, so no group can be left out")
    return whole, whole.groups


def groups_of(dataset: Dataset) -> Groups | None:
    """The group of each item, or None where that is not known."""
    if isinstance(dataset, ArrayDataset):
        return dataset.groups
    if isinstance(dataset, Subset):
        groups = groups_of(dataset.dataset)
        return None if groups is None else groups[dataset.indices]
    return None


def _split_groups(whole: Dataset, groups: Groups, config: RunConfig) -> tuple[Subset, Subset]:
    """(Rest, held out): whole groups, one at least, drawn with the seed, so that nobody is in both parts."""
    distinct = np.unique(groups)
    count = min(max(1, round(config.validation * len(distinct))), len(distinct) - 1)
    drawn = np.random.Generator(np.random.Philox(config.seed)).permutation(distinct)[:count]
    held_out = np.isin(groups, drawn)
    return Subset(whole, np.flatnonzero(~held_out)), Subset(whole, np.flatnonzero(held_out))


def _check_counts(train: Dataset, test: Dataset, config: RunConfig) -> None:
    if len(train.classes) < 2:
        raise DataError(f"{config.data}: only one class; there is nothing to tell apart")
    smallest = min(map(len, strata(train)))
    if smallest < 2 or not len(test):
        raise DataError(
            f"{config.data}: too few images: {len(train)} to train on and {len(test)} to test for "
            f"{len(train.classes)} classes; 4 images of each class are the least"
        )


def skipped_files(dataset: Dataset) -> Sequence[tuple[Path, str]]:
    """What an image folder below this data set left out."""
    while not isinstance(dataset, ImageFolder):
        if not isinstance(dataset, Subset):
            return []
        dataset = dataset.dataset
    return dataset.skipped
