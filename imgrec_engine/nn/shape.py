"""Layers that change shapes only."""

from __future__ import annotations

import math

from imgrec_engine.errors import ShapeError
from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class Flatten(Module):
    """Joins the dimensions from ``start_dim`` to ``end_dim`` into one; images come out in the order H, W, C.

    >>> import imgrec_engine as ie
    >>> ie.nn.Flatten()(ie.ones((2, 4, 4, 3))).shape
    (2, 48)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Reshapes x."""
        first, last = (dim + x.ndim if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 0 <= first <= last < x.ndim:
            raise ShapeError(f"Flatten: cannot join dimensions {self.start_dim} to {self.end_dim} of {x.shape}")
        return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])
