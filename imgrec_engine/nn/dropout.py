"""Dropout."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class Dropout(Module):
    """In training, sets each element to zero with probability p and scales the others by 1 / (1 - p).

    (Srivastava et al., 2014.)

    >>> import imgrec_engine as ie
    >>> ie.nn.Dropout(0.5).eval()(ie.ones(3)).numpy()
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is {p}, expected 0 <= p <= 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """X with some elements dropped."""
        return F.dropout(x, self.p) if self.training else x

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}"
