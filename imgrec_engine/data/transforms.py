"""Transforms of images before they reach a model: deterministic ones and seeded random ones.

All of them work on channels-last arrays, uint8 (0 .. 255) or float32, and treat a clip's frames alike: one
draw turns, crops or mirrors all frames of an item the same way. They are plain data: `to_config` gives JSON
and `Transform.from_config` reads it back through an explicit table of names.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgrec_engine.data.arguments import checked_number, checked_size
from imgrec_engine.errors import DataError

Array = NDArray[Any]
Size: TypeAlias = Any  # (height, width), or one side for both; kept as a pair
Generators = Sequence[np.random.Generator]


class Transform(ABC):
    """One step of image preparation. A subclass writes `batch` and, where it draws, sets `is_random`.

    >>> Resize((4, 4))(np.zeros((8, 6, 1), np.uint8)).shape
    (4, 4, 1)
    """

    @property
    def is_random(self) -> bool:
        """Whether this transform draws from the items' generators."""
        return False

    @abstractmethod
    def batch(self, images: Array, generators: Generators) -> Array:
        """Transform images (N, H, W, C) or clips (N, T, H, W, C); item n draws from `generators[n]` only."""

    def __call__(self, image: Array, generator: np.random.Generator | None = None) -> Array:
        """Transform one image (H, W, C) or clip (T, H, W, C); bit for bit what `batch` makes of it.

        Raises `DataError` for another shape or dtype, and where a random transform gets no generator.
        """
        if image.ndim not in (3, 4) or image.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{type(self).__name__} needs an image (H, W, C) or a clip (T, H, W, C) of uint8 or float32, "
                f"not {image.dtype} of shape {image.shape}"
            )
        if self.is_random and generator is None:
            raise DataError(f"{type(self).__name__} draws at random and needs a generator")
        transformed: Array = self.batch(image[np.newaxis], [] if generator is None else [generator])[0]
        return transformed

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON data from which `Transform.from_config` makes an equal transform."""
        if TRANSFORMS.get(type(self).__name__) is not type(self):
            raise DataError(f"{type(self).__name__} is not one of the engine's transforms and cannot be stored")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"name": type(self).__name__} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
        }

    @staticmethod
    def from_config(config: object) -> Transform:
        """Make the transform that `config`, the result of `to_config`, describes.

        >>> Transform.from_config({"name": "Resize", "size": [28, 28]})
        Resize(size=(28, 28))

        Raises `DataError` for anything that `to_config` does not write.
        """
        if not isinstance(config, Mapping):
            raise DataError(f"a transform's configuration must be an object with a name, not {config!r}")
        name = config.get("name")
        if not isinstance(name, str) or name not in TRANSFORMS:
            raise DataError(f"unknown transform {name!r}; known are {', '.join(TRANSFORMS)}")
        transform = TRANSFORMS[name]
        expected = {field.name for field in dataclasses.fields(transform)}  # type: ignore[arg-type]
        arguments = {key: value for key, value in config.items() if key != "name"}
        if arguments.keys() != expected:
            raise DataError(f"{name} is configured by {sorted(expected)}, not by {sorted(map(str, arguments))}")
        if transform is Compose:
            if not isinstance(arguments["transforms"], list):
                raise DataError("Compose: transforms must be a list")
            # `Compose` is always stored flat, so a nested one is damage (and could be nested without end).
            if any(isinstance(step, Mapping) and step.get("name") == "Compose" for step in arguments["transforms"]):
                raise DataError("Compose: transforms must not hold another Compose")
            return Compose([Transform.from_config(step) for step in arguments["transforms"]])
        return transform(**arguments)


class RandomTransform(Transform):
    """A transform that draws from each item's generator."""

    @property
    def is_random(self) -> bool:
        """Always true."""
        return True


def to_float(images: Array) -> NDArray[np.float32]:
    """Return float32 images: uint8 is divided by 255, float32 is passed through."""
    if images.dtype == np.uint8:
        return np.divide(images, np.float32(255), dtype=np.float32)
    return images.astype(np.float32, copy=False)


@dataclass(frozen=True)
class ToGrey(Transform):
    """Colour to grey, (..., 3) to (..., 1), by ITU-R BT.601 luma; grey passes through."""

    def batch(self, images: Array, generators: Generators) -> Array:
        """Weigh the channels 0.299, 0.587, 0.114."""
        if channels_of(images, self) == 1:
            return images
        if images.dtype == np.uint8:  # 16-bit fixed point, as Pillow's convert("L")
            luma = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
            return ((luma + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]
        red, green, blue = np.split(images, 3, axis=-1)
        grey: Array = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
        return grey


@dataclass(frozen=True)
class ToRGB(Transform):
    """Grey to colour, (..., 1) to (..., 3), by repeating the channel; colour passes through."""

    def batch(self, images: Array, generators: Generators) -> Array:
        """Repeat the channel."""
        return images if channels_of(images, self) == 3 else np.repeat(images, 3, axis=-1)


@dataclass(frozen=True)
class Resize(Transform):
    """Scale to `size`, (height, width) or a square's side, whatever the proportions.

    By Pillow's antialiased bilinear filter.
    """

    size: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked_size(self.size, "Resize: size"))

    def batch(self, images: Array, generators: Generators) -> Array:
        """Resize every channel of every frame."""
        if images.shape[-3:-1] == self.size:
            return images
        resize = partial(Image.Image.resize, size=self.size[::-1], resample=Image.Resampling.BILINEAR)
        return map_frames(images, resize, self.size)


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Cut the middle `size` (height, width) or square out; an odd pixel is left at the bottom and right."""

    size: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked_size(self.size, "CenterCrop: size"))

    def batch(self, images: Array, generators: Generators) -> Array:
        """Slice the middle; raises `DataError` where the images are smaller than `size`."""
        (height, width), (top, left) = self.size, (gap // 2 for gap in gaps(images, self.size, self))
        return images[..., top : top + height, left : left + width, :]


@dataclass(frozen=True)
class Normalize(Transform):
    """To float32 (uint8 is divided by 255 first), less `mean`, over `std`; one number for all channels or
    one each.

    >>> Normalize((0.5,), (0.25,))(np.full((1, 1, 1), 255, np.uint8)).item()
    2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 4:
                raise DataError(f"Normalize: {name} must be a list of 1 to 4 numbers, not {value!r}")
            low = -1e6 if name == "mean" else 1e-6
            checked = tuple(checked_number(number, low, 1e6, f"Normalize: {name}") for number in value)
            object.__setattr__(self, name, checked)
        if len(self.mean) != len(self.std):
            raise DataError(f"Normalize: mean has {len(self.mean)} numbers but std has {len(self.std)}")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Normalise each channel."""
        if len(self.mean) not in (1, images.shape[-1]):
            raise DataError(f"Normalize has {len(self.mean)} means but the images have {images.shape[-1]} channels")
        result = to_float(images) - np.asarray(self.mean, np.float32)
        result /= np.asarray(self.std, np.float32)
        return result


@dataclass(frozen=True)
class Standardize(Transform):
    """To float32 (uint8 is divided by 255 first), less the image's own mean, over its own standard deviation.

    The light in which a picture was taken so drops out. Mean and deviation are taken over all pixels, channels and
    frames of an item; a deviation below `min_std` counts as `min_std`, so that an almost even image is not all noise.

    >>> Standardize()(np.array([[[0], [255]]], np.uint8)).ravel()
    array([-1.,  1.], dtype=float32)
    """

    min_std: float = 0.04

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_std", checked_number(self.min_std, 1e-6, 1e6, "Standardize: min_std"))

    def batch(self, images: Array, generators: Generators) -> Array:
        """Standardise each item; its moments are summed in float64."""
        values = to_float(images)
        axes = tuple(range(1, values.ndim))
        mean = values.mean(axis=axes, keepdims=True, dtype=np.float64)
        std = values.std(axis=axes, keepdims=True, dtype=np.float64)
        result: Array = (values - mean.astype(np.float32)) / np.maximum(std, self.min_std).astype(np.float32)
        return result


@dataclass(frozen=True, init=False)
class Compose(Transform):
    """Transforms one after another; a `Compose` among them is unfolded.

    >>> Compose([ToGrey(), Normalize((0.5,), (0.5,))]).is_random
    False
    """

    transforms: tuple[Transform, ...]

    def __init__(self, transforms: Sequence[Transform]) -> None:
        steps: list[Transform] = []
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise DataError(f"Compose: {transform!r} is not a transform")
            steps.extend(transform.transforms if isinstance(transform, Compose) else [transform])
        object.__setattr__(self, "transforms", tuple(steps))

    @property
    def is_random(self) -> bool:
        """Whether any of the transforms draws."""
        return any(transform.is_random for transform in self.transforms)

    def batch(self, images: Array, generators: Generators) -> Array:
        """Apply the transforms in order."""
        for transform in self.transforms:
            images = transform.batch(images, generators)
        return images

    def to_config(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"name": "Compose", "transforms": [transform.to_config() for transform in self.transforms]}


TRANSFORMS: dict[str, type[Transform]] = {
    transform.__name__: transform
    for transform in (
        ToGrey,
        ToRGB,
        Resize,
        CenterCrop,
        Normalize,
        Standardize,
        Compose,
    )
}
"""The transforms that a configuration may name; `augmentation` adds its own."""


def channels_of(images: Array, transform: Transform) -> int:
    """Return 1 or 3; raise `DataError` for another number of channels."""
    if images.shape[-1] not in (1, 3):
        raise DataError(f"{type(transform).__name__} needs images of 1 or 3 channels, not {images.shape[-1]}")
    return int(images.shape[-1])


def gaps(images: Array, size: tuple[int, int], transform: Transform) -> tuple[int, int]:
    """Return by how much the images are (higher, wider) than `size`; raise `DataError` where they are smaller."""
    height, width = images.shape[-3:-1]
    if height < size[0] or width < size[1]:
        raise DataError(
            f"{type(transform).__name__} of {size} needs larger images than {(height, width)}; resize first"
        )
    return height - size[0], width - size[1]


def map_frames(images: Array, function: Callable[[Image.Image], Image.Image], size: tuple[int, ...]) -> Array:
    """Apply a Pillow operation to every frame: uint8 RGB at once, else channel by channel in mode L or F."""
    if images.dtype == np.uint8 and images.shape[-1] == 3:
        frames = images.reshape(-1, *images.shape[-3:])
        return _mapped(frames, function).reshape(*images.shape[:-3], *size, 3)
    planes = np.moveaxis(images, -1, 0)
    mapped = _mapped(planes.reshape(-1, *images.shape[-3:-1]), function)
    return np.ascontiguousarray(np.moveaxis(mapped.reshape(*planes.shape[:-2], *size), 0, -1))


def _mapped(frames: Array, function: Callable[[Image.Image], Image.Image]) -> Array:
    return np.stack([np.asarray(function(Image.fromarray(np.ascontiguousarray(frame)))) for frame in frames])
