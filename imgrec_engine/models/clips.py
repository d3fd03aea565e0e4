"""What models of clips have in common: features of frames, and their mean over frames that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.errors import ShapeError
from imgrec_engine.models.cnn import ConvFeatures, global_average
from imgrec_engine.tensor import Tensor, tensor


def frame_features(features: ConvFeatures, clips: Tensor) -> Tensor:
    """The pooled features of every frame of clips (N, T, H, W, C): (N, T, features.out_channels)."""
    pooled = global_average(features(clips.reshape(-1, *clips.shape[2:])))
    return pooled.reshape(*clips.shape[:2], -1)


def padding_of(lengths: Any, clips: int, steps: int) -> NDArray[np.bool_]:
    """Which frames are padding: (clips, steps); ShapeError for lengths that cannot be.

    >>> padding_of([3, 1], clips=2, steps=3).tolist()
    [[False, False, False], [False, True, True]]
    """
    given = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else lengths)
    if given.shape != (clips,) or given.dtype.kind not in "iu" or given.min() < 1 or given.max() > steps:
        raise ShapeError(f"lengths are {given}, expected {clips} whole numbers in [1, {steps}]")
    hidden: NDArray[np.bool_] = np.arange(steps) >= given[:, np.newaxis]
    return hidden


def mean_of_frames(frames: Tensor, padding: NDArray[np.bool_] | None) -> Tensor:
    """The mean over time of features (N, T, E), without those that are ``padding`` (N, T): (N, E)."""
    if padding is None:
        mean: Tensor = frames.mean(axis=1)
        return mean
    shares = ~padding / (~padding).sum(axis=1, keepdims=True)
    weighted: Tensor = frames * tensor(shares[..., np.newaxis], dtype=frames.dtype, device=frames.device)
    return weighted.sum(axis=1)
