"""Random transforms: each item draws from its own generator, and the arithmetic is done for many items together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from imgrec_engine.data.arguments import checked_integer, checked_number, checked_size
from imgrec_engine.data.resampling import resample
from imgrec_engine.data.transforms import (
    TRANSFORMS,
    Array,
    Generators,
    RandomTransform,
    Size,
    gaps,
    map_frames,
)
from imgrec_engine.errors import DataError


@dataclass(frozen=True)
class RandomCrop(RandomTransform):
    """Cut a random `size` (height, width) or square out of the image after padding each side by `padding` zeros."""

    size: Size
    padding: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", checked_size(self.size, "RandomCrop: size"))
        checked_integer(self.padding, 0, "RandomCrop: padding")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw a top and a left offset for every item."""
        pad = (self.padding, self.padding)
        images = np.pad(images, [(0, 0)] * (images.ndim - 3) + [pad, pad, (0, 0)])
        (height, width), (tallest, widest) = self.size, gaps(images, self.size, self)
        crops = np.empty((*images.shape[:-3], height, width, images.shape[-1]), images.dtype)
        for image, crop, generator in zip(images, crops, generators, strict=True):
            top, left = generator.integers(tallest + 1), generator.integers(widest + 1)
            crop[...] = image[..., top : top + height, left : left + width, :]
        return crops


@dataclass(frozen=True)
class RandomHorizontalFlip(RandomTransform):
    """Mirror left and right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        checked_number(self.p, 0.0, 1.0, "RandomHorizontalFlip: p")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw once for every item."""
        return _flipped(images, generators, self.p, axis=-2)


@dataclass(frozen=True)
class RandomVerticalFlip(RandomTransform):
    """Mirror top and bottom with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        checked_number(self.p, 0.0, 1.0, "RandomVerticalFlip: p")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw once for every item."""
        return _flipped(images, generators, self.p, axis=-3)


@dataclass(frozen=True)
class RandomRotate90(RandomTransform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely; with `RandomHorizontalFlip`, all 8 symmetries of a square."""

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw once for every item; DataError where the images are not square."""
        height, width = images.shape[-3:-1]
        if height != width:
            raise DataError(f"RandomRotate90: the images are {height} x {width} pixels, expected as high as wide")
        turned = np.empty_like(images)
        for n, generator in enumerate(generators):
            turned[n] = np.rot90(images[n], int(generator.integers(4)), axes=(-3, -2))
        return turned


@dataclass(frozen=True)
class RandomRotation(RandomTransform):
    """Turn about the centre by an angle drawn from -degrees .. degrees; bilinear, corners filled with 0."""

    degrees: float

    def __post_init__(self) -> None:
        checked_number(self.degrees, 0.0, 180.0, "RandomRotation: degrees")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw one angle for every item."""
        turned = np.empty_like(images)
        for n, generator in enumerate(generators):
            angle = generator.uniform(-self.degrees, self.degrees)
            rotate = partial(Image.Image.rotate, angle=angle, resample=Image.Resampling.BILINEAR)
            turned[n] = map_frames(images[n], rotate, images.shape[-3:-1])
        return turned


@dataclass(frozen=True)
class Cutout(RandomTransform):
    """Set a square of `size` pixels with a random centre to 0; it may reach over the edge.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout",
    arXiv:1708.04552. After `Normalize` the hole has the mean's value, as in the paper.
    """

    size: int

    def __post_init__(self) -> None:
        checked_integer(self.size, 1, "Cutout: size")

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw one centre for every item."""
        images = images.copy()
        height, width = images.shape[-3:-1]
        for image, generator in zip(images, generators, strict=True):
            top = int(generator.integers(height)) - self.size // 2
            left = int(generator.integers(width)) - self.size // 2
            image[..., max(top, 0) : top + self.size, max(left, 0) : left + self.size, :] = 0
        return images


@dataclass(frozen=True)
class RandomErasing(RandomTransform):
    """With probability `p`, fill a rectangle with noise: 2 to 33 % of the area, at most 3.3 times as long as wide.

    Zhong et al., "Random erasing data augmentation", AAAI 2020, with its random values. A rectangle that would not
    fit into the image is cut at its sides.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", checked_number(self.p, 0.0, 1.0, "RandomErasing: p"))

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw a rectangle and its noise for every item; all frames of a clip get the same."""
        images = images.copy()
        height, width, channels = images.shape[-3:]
        for image, generator in zip(images, generators, strict=True):
            if generator.random() >= self.p:
                continue
            area = height * width * generator.uniform(0.02, 0.33)
            aspect = math.exp(generator.uniform(-math.log(3.3), math.log(3.3)))
            rows = min(max(round(math.sqrt(area * aspect)), 1), height)
            columns = min(max(round(math.sqrt(area / aspect)), 1), width)
            top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
            shape = (rows, columns, channels)
            if images.dtype == np.uint8:
                noise: Array = generator.integers(0, 256, shape, np.uint8)
            else:
                noise = generator.random(shape, np.float32)
            image[..., top : top + rows, left : left + columns, :] = noise
        return images


@dataclass(frozen=True)
class RandomAffine(RandomTransform):
    """With probability `p`, turn, scale, shear and shift about the centre in one bilinear resampling.

    The edge pixels go on outside. Resampling blurs a little; a model that never saw an image without it takes small
    images as they are, which are sharper, for something else. With `p` below 1 it sees both.

    Drawn evenly: an angle of up to `degrees` either way, a shear of up to `shear` degrees, a shift of up to
    `translate` times the height and the width; and on a logarithmic scale, a size between 1 / (1 + `scale`) and
    1 + `scale`.

    >>> RandomAffine(degrees=10, scale=0.1)(np.zeros((8, 8, 1), np.uint8), np.random.default_rng(0)).shape
    (8, 8, 1)
    """

    degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    translate: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        for name, high in (("degrees", 180.0), ("scale", 4.0), ("shear", 60.0), ("translate", 1.0), ("p", 1.0)):
            value = checked_number(getattr(self, name), 0.0, high, f"RandomAffine: {name}")
            object.__setattr__(self, name, value)

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw one map for every item, or none."""
        size = images.shape[-3:-1]
        chosen = np.array([self.p == 1 or generator.random() < self.p for generator in generators], bool)
        maps = [self._draw(generator, *size) for generator, moves in zip(generators, chosen, strict=True) if moves]
        moved = images.copy()
        moved[chosen] = resample(images[chosen], np.array(maps, np.float32).reshape(-1, 2, 3))
        return moved

    def _draw(self, generator: np.random.Generator, height: int, width: int) -> list[float]:
        """The map from a place (x, y, 1) in the result, seen from the centre, to one in the image: 2 x 3, by rows."""
        angle, shear, size, right, down = generator.uniform(-1.0, 1.0, 5).tolist()
        angle, shear = math.radians(angle * self.degrees), math.tan(math.radians(shear * self.shear))
        size = (1.0 + self.scale) ** -size
        cos, sin = math.cos(angle) * size, math.sin(angle) * size
        right, down = right * self.translate * width, down * self.translate * height
        linear = [(cos + shear * sin, sin - shear * cos), (-sin, cos)]
        return [entry for x, y in linear for entry in (x, y, -(x * right + y * down))]


@dataclass(frozen=True)
class ColorJitter(RandomTransform):
    """Change the light: each factor is drawn evenly from 1 - value .. 1 + value.

    `brightness` multiplies all pixels, `contrast` the distance from the image's mean grey, `saturation`, which grey
    images do not have, each pixel's distance from its own grey. uint8 is rounded and kept in 0 .. 255; float32,
    which may be a difference of pictures, is not bounded.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = checked_number(getattr(self, name), 0.0, 1.0, f"ColorJitter: {name}")
            object.__setattr__(self, name, value)

    def batch(self, images: Array, generators: Generators) -> Array:
        """Draw three factors for every item."""
        amounts = np.array([self.brightness, self.contrast, self.saturation])
        draws = np.array([generator.uniform(-1.0, 1.0, 3) for generator in generators]).reshape(-1, 3)
        factors = (1.0 + draws * amounts).astype(np.float32)
        brightness, contrast, saturation = factors.T.reshape(3, -1, *[1] * (images.ndim - 1))
        values = images.astype(np.float32) * brightness
        mean = values.mean(axis=tuple(range(1, values.ndim)), keepdims=True, dtype=np.float64).astype(np.float32)
        if images.shape[-1] == 3:
            grey = values @ np.array([[0.299], [0.587], [0.114]], np.float32)
            values = grey + saturation * (values - grey)
        values = mean + contrast * (values - mean)
        result: Array = values
        return np.rint(result).clip(0, 255).astype(np.uint8) if images.dtype == np.uint8 else result


TRANSFORMS.update(
    (transform.__name__, transform)
    for transform in (
        RandomCrop,
        RandomHorizontalFlip,
        RandomVerticalFlip,
        RandomRotate90,
        RandomRotation,
        RandomErasing,
        RandomAffine,
        ColorJitter,
        Cutout,
    )
)


def _flipped(images: Array, generators: Generators, p: float, axis: int) -> Array:
    chosen = np.array([generator.random() < p for generator in generators], bool)
    images = images.copy()
    images[chosen] = np.flip(images[chosen], axis)
    return images
