"""What a data set is: numbered images, each with a class or a string of classes, and a name for each class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.streams import checked_key, epoch_generator
from imgrec_engine.errors import DataError

Array = NDArray[Any]
Labels = NDArray[np.int64]

PADDING = -1
"""What fills a string of labels up behind its end, so that strings of all lengths make one array."""


class Dataset(ABC):
    """A numbered collection of images, or of clips, with one class each, or one string of classes.

    A subclass sets `classes` and writes `__len__` and `__getitem__`. An image is an array (H, W, C), a clip
    is (T, H, W, C); uint8 means 0 .. 255 and float32 means that 1.0 is white. A label is an index into
    `classes`, or an array (S,) of such: the string that is written in the image, filled up with `PADDING`
    behind its end so that S is the same for all items.

    >>> class Stripes(Dataset):
    ...     classes = ("horizontal", "vertical")
    ...     def __len__(self):
    ...         return 10
    ...     def __getitem__(self, index):
    ...         image = np.zeros((8, 8, 1), np.uint8)
    ...         image[(slice(None), slice(None, None, 2)) if index % 2 else slice(None, None, 2)] = 255
    ...         return image, index % 2
    >>> Stripes()
    Stripes(10 items of 8x8x1, 2 classes)
    """

    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Array, int | Labels]:
        """Return the image (H, W, C) or clip (T, H, W, C) and the label of one item."""

    def __iter__(self) -> Iterator[tuple[Array, int | Labels]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def labels(self) -> Labels:
        """The labels of all items, int64 (N,) or (N, S). Override where they are known without loading the images."""
        return np.array([label for _, label in self], np.int64)

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape that all items share, or None where they differ."""
        return self[0][0].shape

    def gather(self, indices: Sequence[int] | NDArray[np.integer]) -> tuple[Array | list[Array], Labels]:
        """Return the images and labels of several items: one stacked array where that is cheap, else a list.

        Raises `DataError` naming the item that could not be loaded.
        """
        images: list[Array] = []
        labels: list[Labels] = []
        for index in indices:
            try:
                image, label = self[int(index)]
                labels.append(np.asarray(label, np.int64))
                if labels[-1].shape != labels[0].shape:
                    raise DataError(f"its label has the shape {labels[-1].shape}, others {labels[0].shape}")
            except Exception as error:
                raise DataError(f"item {index} could not be loaded: {_describe(error)}") from error
            images.append(np.asarray(image))
        return images, np.array(labels, np.int64)

    def __repr__(self) -> str:
        shape = self.image_shape if len(self) else None
        size = "x".join(map(str, shape)) if shape else "various sizes"
        return f"{type(self).__name__}({len(self)} items of {size}, {len(self.classes)} classes)"


class ArrayDataset(Dataset):
    """Images held in one array; batches are gathered in one step.

    `images` is (N, H, W), (N, H, W, C) or, for clips, (N, T, H, W, C); uint8 or floating (kept as float32).
    `labels` is (N,) or (N, 1), integers below `len(classes)`, or (N, S) of strings, with `PADDING` behind the
    end of those that are shorter. `groups` (N,), optional, says which person,
    board or recording an item came from; `leave_group_out` splits by it.

    >>> dataset = ArrayDataset(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], ("cat", "dog"))
    >>> dataset[1][0].shape, dataset[1][1]
    ((8, 8, 1), 1)
    """

    def __init__(
        self,
        images: Array,
        labels: Sequence[int] | Array,
        classes: Sequence[str],
        groups: Sequence[int] | Array | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.images = _checked_images(images)
        self._labels = _checked_labels(labels, len(self.images), len(self.classes))
        self.groups = None if groups is None else np.asarray(groups)
        if self.groups is not None and self.groups.shape != self._labels.shape[:1]:
            raise DataError(f"groups must have shape {self._labels.shape[:1]}, one per image, not {self.groups.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Array, int | Labels]:
        label = self._labels[index]
        return self.images[index], label if label.ndim else int(label)

    @property
    def labels(self) -> Labels:
        """The labels of all items, int64 (N,) or (N, S)."""
        return self._labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of every image."""
        return self.images.shape[1:]

    def gather(self, indices: Sequence[int] | NDArray[np.integer]) -> tuple[Array, Labels]:
        """Return the images (len(indices), H, W, C) and labels of several items."""
        return self.images[indices], self._labels[indices]


class Subset(Dataset):
    """Some items of a data set, in the order given.

    >>> whole = ArrayDataset(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], ("cat", "dog"))
    >>> Subset(whole, [3, 0]).labels
    array([1, 0])
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int] | NDArray[np.integer]) -> None:
        self.dataset = dataset
        self.classes = dataset.classes
        self.indices = np.asarray(indices, np.int64)
        if self.indices.ndim != 1 or np.any((self.indices < 0) | (self.indices >= len(dataset))):
            raise DataError(f"indices of a Subset must be a list of integers in 0 .. {len(dataset) - 1}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Array, int | Labels]:
        return self.dataset[int(self.indices[index])]

    @cached_property
    def labels(self) -> Labels:
        """The labels of the chosen items, int64 (N,) or (N, S)."""
        return self.dataset.labels[self.indices]

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape that all items of the whole data set share, or None."""
        return self.dataset.image_shape

    def gather(self, indices: Sequence[int] | NDArray[np.integer]) -> tuple[Array | list[Array], Labels]:
        """Return the images and labels of several items, as the whole data set gathers them."""
        return self.dataset.gather(self.indices[indices])


class ConcatDataset(Dataset):
    """Several data sets of the same classes, one after another.

    >>> part = ArrayDataset(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], ("cat", "dog"))
    >>> len(ConcatDataset([part, part]))
    8
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        if not datasets or any(dataset.classes != datasets[0].classes for dataset in datasets):
            raise DataError(
                "data sets can only be joined when their classes are the same, but these have "
                + " and ".join(str(dataset.classes) for dataset in datasets)
            )
        self.datasets = tuple(datasets)
        self.classes = datasets[0].classes
        self._ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Array, int | Labels]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} items")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.datasets[part][index - int(self._ends[part]) + len(self.datasets[part])]

    @cached_property
    def labels(self) -> Labels:
        """The labels of all parts, int64 (N,) or (N, S)."""
        return np.concatenate([dataset.labels for dataset in self.datasets])

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape that all items share, or None."""
        shapes = {dataset.image_shape for dataset in self.datasets}
        return shapes.pop() if len(shapes) == 1 else None


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Split into (rest, held out), holding out `fraction` of every class, drawn with `seed`.

    Both parts keep the order of the data set. A class of a single item stays in the rest. Where the labels are
    strings, the fraction is that of all items.

    >>> whole = ArrayDataset(np.zeros((8, 2, 2), np.uint8), [0, 0, 0, 0, 1, 1, 1, 1], ("cat", "dog"))
    >>> rest, held_out = split(whole, 0.25)
    >>> rest.labels, held_out.labels
    (array([0, 0, 0, 1, 1, 1]), array([0, 1]))
    """
    if not 0 < fraction < 1:
        raise DataError(f"fraction must lie between 0 and 1, not {fraction}")
    generator = epoch_generator(checked_key(seed, "seed"), 0)
    held_out = np.zeros(len(dataset), bool)
    for members in strata(dataset):
        count = min(round(len(members) * fraction), max(len(members) - 1, 0))
        held_out[generator.permutation(members)[:count]] = True
    return Subset(dataset, np.flatnonzero(~held_out)), Subset(dataset, np.flatnonzero(held_out))


def strata(dataset: Dataset) -> list[NDArray[np.int64]]:
    """The items of each class; all items together where the labels are strings, which are hardly ever alike.

    >>> strata(ArrayDataset(np.zeros((3, 2, 2), np.uint8), [0, 1, 0], ("cat", "dog")))
    [array([0, 2]), array([1])]
    """
    labels = dataset.labels
    if labels.ndim > 1:
        return [np.arange(len(labels))]
    return [np.flatnonzero(labels == label) for label in range(len(dataset.classes))]


def leave_group_out(dataset: ArrayDataset, groups: Sequence[int]) -> tuple[Subset, Subset]:
    """Split into (items of other groups, items of `groups`), e.g. to test on people never trained on.

    >>> images = np.zeros((4, 2, 2), np.uint8)
    >>> whole = ArrayDataset(images, [0, 1, 0, 1], ("sit", "walk"), groups=[1, 1, 2, 3])
    >>> train, test = leave_group_out(whole, [2, 3])
    >>> train.indices, test.indices
    (array([0, 1]), array([2, 3]))
    """
    if dataset.groups is None:
        raise DataError(f"{dataset!r} has no groups to leave out")
    unknown = sorted(set(groups) - set(dataset.groups.tolist()))
    if unknown:
        raise DataError(f"{dataset!r} has no group {unknown[0]}; its groups are {np.unique(dataset.groups).tolist()}")
    left_out = np.isin(dataset.groups, groups)
    return Subset(dataset, np.flatnonzero(~left_out)), Subset(dataset, np.flatnonzero(left_out))


def contiguous_labels(values: Array) -> tuple[Labels, tuple[str, ...]]:
    """Number the distinct integers of `values` in ascending order; the classes are named after them.

    >>> contiguous_labels(np.array([5, 2, 5]))
    (array([1, 0, 1]), ('2', '5'))
    """
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"labels must be integers, not {values.dtype}")
    distinct, labels = np.unique(values, return_inverse=True)
    return labels.reshape(values.shape).astype(np.int64), tuple(str(value) for value in distinct)


def _checked_images(images: Array) -> Array:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim not in (4, 5):
        raise DataError(f"images must have shape (N, H, W), (N, H, W, C) or (N, T, H, W, C), not {images.shape}")
    if images.size == 0:
        raise DataError(f"images must not be empty, but their shape is {images.shape}")
    if images.dtype == np.bool_:
        images = images.astype(np.uint8) * np.uint8(255)
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"images must be uint8 (0 .. 255) or floating (1.0 is white), not {images.dtype}")
    if not np.isfinite(images).all():
        raise DataError("images hold NaN or infinite pixels")
    return images.astype(np.float32, copy=False)


def _checked_labels(labels: Sequence[int] | Array, images: int, classes: int) -> Labels:
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.shape[0] != images or 0 in array.shape:
        raise DataError(
            f"labels must have shape ({images},), one per image, or ({images}, S), a string per image, "
            f"not {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"labels must be integers, not {array.dtype}")
    array = array.astype(np.int64)
    padding = (array == PADDING) & (array.ndim == 2)
    if np.any(padding[..., :-1] & ~padding[..., 1:]):
        raise DataError(f"labels have {PADDING}, which fills strings up, before the end of one")
    used = array[~padding]
    if used.size and (used.min() < 0 or used.max() >= classes):
        raise DataError(
            f"labels must lie in 0 .. {classes - 1} for {classes} classes, "
            f"but they reach from {used.min()} to {used.max()}"
        )
    return array


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
