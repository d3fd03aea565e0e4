"""Functions of each element by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty_like

__all__ = ["cast", "clone"]


@differentiable
def clone(x: Array) -> Result:
    """A copy in memory of its own."""
    y = empty_like(x)
    np.copyto(y, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy,)

    return y, backward


@differentiable
def cast(x: Array, dtype: np.dtype[Any]) -> Result:
    """The same values rounded to another dtype; the gradient is rounded back."""
    before = x.dtype

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.astype(before),)

    return x.astype(dtype), backward
