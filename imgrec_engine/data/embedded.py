"""Data sets that travel inside other Python packages, so that they are there without a download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import ArrayDataset
from imgrec_engine.errors import DataError


def digits() -> ArrayDataset:
    """Return scikit-learn's 1,797 handwritten digits (UCI optical digits), 8x8 grey in steps of 1/16."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits", "scikit-learn") from error
    bunch = load_digits()
    return ArrayDataset(bunch.images / 16, bunch.target, [str(digit) for digit in range(10)])


def faces() -> ArrayDataset:
    """Return scikit-image's 100 faces and 100 other patches, 25x25 grey, from Labeled Faces in the Wild."""
    try:
        from skimage.data import lfw_subset
    except ImportError as error:
        raise _missing("faces", "scikit-image") from error
    patches: NDArray[np.float64] = lfw_subset()  # type: ignore[no-untyped-call]
    return ArrayDataset(patches, np.repeat([1, 0], 100), ("not face", "face"))


SETS: dict[str, Callable[[], ArrayDataset]] = {"digits": digits, "faces": faces}
"""The embedded sets by name, each whole."""


def _missing(name: str, package: str) -> DataError:
    return DataError(
        f"data set {name!r} comes with {package}, which is not installed: pip install imgrec_engine[train]"
    )
