"""Mixing the images of a batch, and their labels alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.arguments import checked_number
from imgrec_engine.errors import DataError

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Mixing:
    """Mixes every image of a batch with another one of it; the labels become shares of the classes.

    With `mixup`, the pixels are blended (Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018); with
    `cutmix`, a rectangle is taken from the other image (Yun et al., "CutMix", ICCV 2019). The number is the paper's
    alpha: the share of the first image is drawn from Beta(alpha, alpha), once for the batch; 0 means never. Where both
    are above 0, each batch draws which of the two it gets.

    >>> images, labels = np.zeros((4, 8, 8, 1), np.float32), np.array([0, 1, 0, 1])
    >>> mixed, shares = Mixing(mixup=0.2)(images, labels, 2, np.random.default_rng(0))
    >>> mixed.shape, shares.shape, shares.sum(axis=1)
    ((4, 8, 8, 1), (4, 2), array([1., 1., 1., 1.], dtype=float32))
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            value = checked_number(getattr(self, name), 0.0, 100.0, f"Mixing: {name}")
            object.__setattr__(self, name, value)

    def __call__(
        self, images: Images, labels: NDArray[Any], classes: int, generator: np.random.Generator
    ) -> tuple[Images, Images]:
        """Images (N, ..., H, W, C) mixed, and their shares of the classes, float32 (N, classes).

        DataError where the labels are strings.
        """
        if labels.ndim != 1:
            raise DataError(f"Mixing: the labels are strings, {labels.shape}, of which there are no shares")
        shares = np.zeros((len(labels), classes), np.float32)
        shares[np.arange(len(labels)), labels] = 1.0
        cuts = self.cutmix > 0 and (self.mixup == 0 or generator.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        if alpha == 0:
            return images, shares
        other = generator.permutation(len(labels))
        kept = float(generator.beta(alpha, alpha))
        if cuts:
            images, kept = _pasted(images, images[other], kept, generator)
        else:
            images = _blended(images, images[other], kept)
        return images, _blended(shares, shares[other], kept)


def _blended(first: Images, second: Images, kept: float) -> Images:
    result: Images = np.float32(kept) * first + np.float32(1.0 - kept) * second
    return result


def _pasted(first: Images, second: Images, kept: float, generator: np.random.Generator) -> tuple[Images, float]:
    """A rectangle of about the share 1 - kept with a random centre, cut at the sides; and what was kept in truth."""
    height, width = first.shape[-3:-1]
    (top, bottom), (left, right) = (
        _interval(int(generator.integers(side)), round(side * math.sqrt(1.0 - kept)), side) for side in (height, width)
    )
    result = first.copy()
    result[..., top:bottom, left:right, :] = second[..., top:bottom, left:right, :]
    return result, 1.0 - (bottom - top) * (right - left) / (height * width)


def _interval(centre: int, length: int, side: int) -> tuple[int, int]:
    start = centre - length // 2
    return max(start, 0), min(start + length, side)
