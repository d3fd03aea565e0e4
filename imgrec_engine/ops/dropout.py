"""Dropout."""

from __future__ import annotations

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty_like
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import DTypeError
from imgrec_engine.random import next_state

__all__ = ["dropout"]


@differentiable
def dropout(x: Array, p: float = 0.5, training: bool = True) -> Result:
    """X with each element set to 0 with probability ``p``, the others divided by 1 - p; x itself when not training.

    No mask is stored: the backward pass draws the same random numbers again (Srivastava et al., JMLR 15, 2014).

    >>> import imgrec_engine as ie
    >>> ie.manual_seed(0)
    >>> sorted(set(dropout(ie.ones(100), p=0.75).tolist()))
    [0.0, 4.0]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is {p}, expected a probability from 0 to 1")
    if not is_floating(x.dtype):
        raise DTypeError(f"dropout: x is {x.dtype.name}, expected a floating dtype")
    if not training or p == 0:
        return x[...], lambda dy, needs: (dy,)
    module, context = kernels.of(x)
    state = next_state(x)

    def masked(values: Array) -> Array:
        out = empty_like(values)
        module.dropout(context, out, contiguous(values), state, p)
        return out

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (masked(dy),)

    return masked(x), backward
