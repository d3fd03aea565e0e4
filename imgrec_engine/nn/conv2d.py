"""Convolution layers."""

from __future__ import annotations

from typing import Literal

from imgrec_engine import functional as F
from imgrec_engine.creation import zeros
from imgrec_engine.nn.matmul import init_weight_and_bias
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.tensor import Tensor

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """(height, width) from one number for both or from the two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Conv2d(Module):
    """A convolution over images: (N, H, W, in_channels) to (N, H_out, W_out, out_channels).

    ``weight`` is (out_channels, KH, KW, in_channels / groups). ``padding`` is a number, a (height, width) pair or
    "same". Weight and bias are initialised uniformly in +-1 / sqrt(KH KW in_channels / groups).

    >>> import imgrec_engine as ie
    >>> ie.nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1)(ie.ones((1, 8, 8, 3))).shape
    (1, 4, 4, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | Literal["same"] = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups is {groups}; it must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.weight = Parameter(zeros((out_channels, *self.kernel_size, in_channels // groups)))
        self.bias = Parameter(zeros(out_channels)) if bias else None
        init_weight_and_bias(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the layer on x (N, H, W, in_channels)."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Its channels, its window, and whatever is not the default."""
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        shown = [f"{name}={getattr(self, name)!r}" for name, usual in options.items() if getattr(self, name) != usual]
        head = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return ", ".join([head, *shown, *(["bias=False"] if self.bias is None else [])])
