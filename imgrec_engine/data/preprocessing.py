"""The deterministic preparation of images that a model was trained with and that its checkpoint carries."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrec_engine.data.dataset import ArrayDataset, Dataset
from imgrec_engine.data.transforms import Compose, Normalize, Resize, Standardize, ToGrey, ToRGB, Transform, to_float
from imgrec_engine.errors import DataError

DEFAULT_IMAGE_SIZE = (64, 64)
"""The working size (height, width) of a data set whose images differ in size."""

_MEASURED_ITEMS = 2000
_MEMORY_VALUES = 1024**3


@dataclass(frozen=True)
class Preprocessing:
    """Grey (`channels=1`) or colour (3), `image_size` (height, width), then `mean` and `std` per channel.

    With 2 or 4 channels the images have to come with as many: a picture and its template, say.

    With `per_image`, every image is standardised by its own mean and deviation before that.

    >>> preprocessing = Preprocessing((28, 28), 1, (0.5,), (0.25,))
    >>> preprocessing.compose()(np.zeros((40, 30, 3), np.uint8)).shape
    (28, 28, 1)
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_image: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.per_image, bool):
            raise DataError(f"Preprocessing: per_image must be true or false, not {self.per_image!r}")
        if self.channels not in (1, 2, 3, 4) or isinstance(self.channels, bool):
            raise DataError(f"Preprocessing: channels must be 1, 2, 3 or 4, not {self.channels!r}")
        normalize = Normalize(self.mean, self.std)
        if len(normalize.mean) != self.channels:
            raise DataError(f"Preprocessing: {self.channels} channels need as many means, not {len(normalize.mean)}")
        object.__setattr__(self, "image_size", Resize(self.image_size).size)
        object.__setattr__(self, "mean", normalize.mean)
        object.__setattr__(self, "std", normalize.std)

    def compose(self, augmentations: Sequence[Transform] = ()) -> Compose:
        """Return the transform: channels, size, then `augmentations` (only in training), mean and std."""
        own = [Standardize()] if self.per_image else []
        return Compose([self.geometry(), *augmentations, *own, Normalize(self.mean, self.std)])

    def geometry(self) -> Compose:
        """Return the first part of `compose`, which keeps pixels what they are: channels, then size."""
        colour: dict[int, list[Transform]] = {1: [ToGrey()], 3: [ToRGB()]}
        return Compose([*colour.get(self.channels, []), Resize(self.image_size)])

    @classmethod
    def measure(
        cls, dataset: Dataset, image_size: tuple[int, int] | None = None, channels: int | None = None
    ) -> Preprocessing:
        """Choose the preparation for a training set and measure its mean and deviation per channel.

        `image_size` is by default the set's own or, where that varies, `DEFAULT_IMAGE_SIZE`; `channels` is
        1 by default where all images are grey, else 3. At most 2000 items, evenly spread, are measured, in
        float64.
        """
        shape = dataset.image_shape
        if image_size is None:
            image_size = DEFAULT_IMAGE_SIZE if shape is None else (shape[-3], shape[-2])
        indices = np.unique(np.linspace(0, len(dataset) - 1, _MEASURED_ITEMS).astype(np.int64))
        if channels is None:
            sampled = shape[-1:] if shape else {dataset[int(index)][0].shape[-1] for index in indices}
            channels = max(sampled)
        geometry = cls(image_size, channels, (0.0,) * channels, (1.0,) * channels).geometry()
        moments = np.zeros((2, channels))
        for index in indices:
            pixels = to_float(geometry(dataset[int(index)][0])).reshape(-1, channels).astype(np.float64)
            moments += pixels.mean(axis=0), np.square(pixels).mean(axis=0)
        mean, square = moments / len(indices)
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        deviation[deviation < 1e-3] = 1.0  # a constant channel has no scale to divide by
        return cls(image_size, channels, tuple(mean.tolist()), tuple(deviation.tolist()))

    def in_memory(self, dataset: Dataset) -> Dataset:
        """Return `dataset` with channels and size already brought in line, as one array, decoded once.

        `compose()` makes the same bits of it, many times faster where `dataset` reads files. A set that would
        hold more than 2**30 values, or needs no change, is returned as it is.
        """
        shape = (*self.image_size, self.channels)
        if dataset.image_shape == shape or len(dataset) * math.prod(shape) > _MEMORY_VALUES:
            return dataset
        geometry = self.geometry()
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            images = list(pool.map(lambda n: geometry(dataset.gather([n])[0][0]), range(len(dataset))))
        return ArrayDataset(np.stack(images), dataset.labels, dataset.classes)

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON data for a checkpoint."""
        return {
            "image_size": list(self.image_size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "per_image": self.per_image,
        }

    @classmethod
    def from_config(cls, config: object) -> Preprocessing:
        """Read what `to_config` wrote; raises `DataError` for anything else."""
        expected = {"image_size", "channels", "mean", "std", "per_image"}
        if not isinstance(config, Mapping) or config.keys() != expected:
            raise DataError(f"a preprocessing configuration has the keys {sorted(expected)}, not {config!r}")
        return cls(**config)
