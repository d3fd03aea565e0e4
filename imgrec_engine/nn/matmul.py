"""Layers that are matrix products."""

from __future__ import annotations

import math

from imgrec_engine import functional as F
from imgrec_engine.creation import zeros
from imgrec_engine.nn import init
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.tensor import Tensor


class Linear(Module):
    """y = x W^T + b: (..., in_features) to (..., out_features).

    ``weight`` is (out_features, in_features); both are initialised uniformly in +-1 / sqrt(in_features).

    >>> import imgrec_engine as ie
    >>> ie.nn.Linear(3, 2)(ie.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(zeros((out_features, in_features)))
        self.bias = Parameter(zeros(out_features)) if bias else None
        init_weight_and_bias(self.weight, self.bias)

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        """Runs the layer on x (..., in_features).

        In the same pass it adds a residual of the result's shape, and then applies an activation.
        """
        return F.linear(x, self.weight, self.bias, activation, residual)

    def extra_repr(self) -> str:
        """Its features, and that it has no bias."""
        return f"{self.in_features}, {self.out_features}" + (", bias=False" if self.bias is None else "")


def init_weight_and_bias(weight: Tensor, bias: Tensor | None) -> None:
    """PyTorch's initialisation of linear and convolution layers: uniform in +-1 / sqrt(fan_in)."""
    fan_in = init.fans(weight)[0]
    if fan_in == 0:
        return
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
