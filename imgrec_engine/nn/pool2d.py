"""Pooling layers over images (N, H, W, C)."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine.nn.conv2d import Pair
from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class _Pool2d(Module):
    """What the pooling layers with a window have in common."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding

    def extra_repr(self) -> str:
        """Its window, and whatever is not the default."""
        stride = "" if self.stride is None else f", stride={self.stride}"
        padding = "" if self.padding == 0 else f", padding={self.padding}"
        return f"{self.kernel_size}{stride}{padding}"


class MaxPool2d(_Pool2d):
    """The greatest value of each window; ``stride`` is the window's size if not given.

    >>> import imgrec_engine as ie
    >>> ie.nn.MaxPool2d(2)(ie.ones((1, 8, 6, 3))).shape
    (1, 4, 3, 3)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pools x (N, H, W, C)."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """The mean of each window, padding counted as zeros; ``stride`` is the window's size if not given."""

    def forward(self, x: Tensor) -> Tensor:
        """Pools x (N, H, W, C)."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class AdaptiveAvgPool2d(Module):
    """Means over as many equal regions as the output is to have: (N, H, W, C) to (N, *output_size, C).

    >>> import imgrec_engine as ie
    >>> ie.nn.AdaptiveAvgPool2d(1)(ie.ones((2, 7, 5, 3))).shape
    (2, 1, 1, 3)
    """

    def __init__(self, output_size: Pair) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Pools x (N, H, W, C)."""
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        """The output's size."""
        return f"{self.output_size}"
