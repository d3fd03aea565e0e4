"""Bilinear resampling of many images at once, each by an affine map of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BLOCK = 16384  # output pixels at a time: their coordinates and weights stay in the processor's cache


def resample(images: Array, maps: NDArray[np.float32]) -> Array:
    """Images (N, H, W, C) or clips (N, T, H, W, C), in their dtype, where each pixel comes from another place.

    `maps` (N, 2, 3) takes a place (x, y, 1) of the result, seen from the image's centre, to a place (x, y) of the
    image; places outside the image have the colour of the nearest pixel. All frames of a clip are treated alike.

    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> one_to_the_right = np.array([[[1, 0, -1], [0, 1, 0]]], np.float32)
    >>> resample(image, one_to_the_right).ravel()
    array([0., 0., 1., 2.], dtype=float32)
    """
    if images.ndim == 5:
        count, frames, *size, channels = images.shape
        side_by_side = np.ascontiguousarray(np.moveaxis(images, 1, 3)).reshape(count, *size, frames * channels)
        moved = resample(side_by_side, maps).reshape(count, *size, frames, channels)
        return np.ascontiguousarray(np.moveaxis(moved, 3, 1))
    result = np.empty_like(images, order="C")
    block = max(1, _BLOCK // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), block):
        part = slice(start, start + block)
        result[part] = _resample_block(images[part], maps[part])
    return result


def _resample_block(images: Array, maps: NDArray[np.float32]) -> Array:
    count, height, width, channels = images.shape
    half_y, half_x = np.float32((height - 1) / 2), np.float32((width - 1) / 2)
    y = (np.arange(height, dtype=np.float32) - half_y)[:, np.newaxis]
    x = np.arange(width, dtype=np.float32) - half_x
    entries = maps[:, :, :, np.newaxis, np.newaxis]
    places = entries[:, :, 0] * x + entries[:, :, 1] * y + entries[:, :, 2]
    left, right, along_x = _neighbours(places[:, 0] + half_x, width)
    above, below, along_y = _neighbours(places[:, 1] + half_y, height)
    first = (np.arange(count, dtype=np.int32) * (height * width))[:, np.newaxis, np.newaxis]
    above, below = first + above * np.int32(width), first + below * np.int32(width)
    pixels = np.ascontiguousarray(images).reshape(-1, channels).astype(np.float32)
    top = _between(pixels.take(above + left, axis=0), pixels.take(above + right, axis=0), along_x)
    bottom = _between(pixels.take(below + left, axis=0), pixels.take(below + right, axis=0), along_x)
    values = _between(top, bottom, along_y)
    return np.rint(values, out=values) if images.dtype == np.uint8 else values


def _neighbours(places: NDArray[np.float32], length: int) -> tuple[Array, Array, Array]:
    """The pixels before and after each place along an axis, and how far it is from the first to the second."""
    places = places.clip(0, length - 1)
    before = places.astype(np.int32)
    return before, np.minimum(before + 1, length - 1), (places - before)[..., np.newaxis]


def _between(first: Array, second: Array, share: Array) -> Array:
    second -= first
    second *= share
    second += first
    return second
