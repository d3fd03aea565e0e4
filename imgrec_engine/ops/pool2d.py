"""Pooling over the rows and columns of images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty
from imgrec_engine.dtypes import int32, uint8
from imgrec_engine.errors import ShapeError

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"]

Size = int | tuple[int, int]


def _pair(op: str, name: str, value: Size) -> tuple[int, int]:
    """One number for both directions, or (along H, along W)."""
    if type(value) is int:
        return value, value
    pair = (value, value) if isinstance(value, (int, np.integer)) else tuple(value) if np.iterable(value) else ()
    if len(pair) != 2 or not all(isinstance(number, (int, np.integer)) for number in pair):
        raise TypeError(f"{op}: {name} is {value!r}, expected a whole number or a pair of them")
    return int(pair[0]), int(pair[1])


def _window(op: str, kernel_size: Size, stride: Size | None, padding: Size) -> tuple[tuple[int, int], ...]:
    kernel = _pair(op, "kernel_size", kernel_size)
    return kernel, kernel if stride is None else _pair(op, "stride", stride), _pair(op, "padding", padding)


@functools.lru_cache(maxsize=1024)
def _output_shape(
    module: Any, op: str, shape: tuple[int, ...], dtype: np.dtype[Any], window: tuple[tuple[int, int], ...]
) -> tuple[int, ...]:
    """(N, OH, OW, C), after checks that the window is possible."""
    rows, columns = module.pool2d_output_size(op, shape, dtype, *window)
    return shape[0], rows, columns, shape[3]


@differentiable
def max_pool2d(x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Result:
    """The greatest element of each window: x (N, H, W, C) gives (N, OH, OW, C).

    OH = floor((H + 2 padding - kernel_size) / stride) + 1, and OW alike; sizes are numbers or pairs (along H, along W),
    and ``stride=None`` means ``kernel_size``. The padding, at most half of the kernel, is never chosen. A NaN in the
    window is the result. The gradient goes to the first of equal elements. Any floating dtype.

    ShapeError where x has no four dimensions or the window does not fit.

    >>> import imgrec_engine as ie
    >>> max_pool2d(ie.arange(16.0).reshape(1, 4, 4, 1), 2).numpy().ravel()
    array([ 5.,  7., 13., 15.], dtype=float32)
    """
    window = _window("max_pool2d", kernel_size, stride, padding)
    x = contiguous(x)
    shape = x.shape
    module, context = kernels.of(x)
    output = _output_shape(module, "max_pool2d", shape, x.dtype, window)
    y = empty(output, x.dtype, x)
    winner = empty(output, uint8 if window[0][0] * window[0][1] <= 256 else int32, x)
    module.max_pool2d_forward(context, y, winner, x, *window)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty(shape, dy.dtype, dy)
        module.max_pool2d_backward(context, dx, contiguous(dy), winner, *window)
        return (dx,)

    return y, backward


@differentiable
def avg_pool2d(x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Result:
    """The mean of each window: x (N, H, W, C) gives (N, OH, OW, C).

    Sizes, dtypes and errors as in ``max_pool2d``. The padding counts as zeros (PyTorch's ``count_include_pad``).

    >>> import imgrec_engine as ie
    >>> avg_pool2d(ie.arange(16.0).reshape(1, 4, 4, 1), 2).numpy().ravel()
    array([ 2.5,  4.5, 10.5, 12.5], dtype=float32)
    """
    window = _window("avg_pool2d", kernel_size, stride, padding)
    x = contiguous(x)
    shape = x.shape
    module, context = kernels.of(x)
    y = empty(_output_shape(module, "avg_pool2d", shape, x.dtype, window), x.dtype, x)
    module.avg_pool2d_forward(context, y, x, *window)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty(shape, dy.dtype, dy)
        module.avg_pool2d_backward(context, dx, contiguous(dy), *window)
        return (dx,)

    return y, backward


@differentiable
def adaptive_avg_pool2d(x: Array, output_size: Size) -> Result:
    """Means of windows that share the image evenly: x (N, H, W, C) gives (N, OH, OW, C), whatever H and W are.

    Output row i averages the rows floor(i H / OH) to ceil((i + 1) H / OH) - 1, and columns alike. Any floating dtype.
    ``output_size=1`` is global average pooling.

    >>> import imgrec_engine as ie
    >>> adaptive_avg_pool2d(ie.arange(16.0).reshape(1, 4, 4, 1), (1, 2)).numpy().ravel()
    array([6.5, 8.5], dtype=float32)
    """
    rows, columns = _pair("adaptive_avg_pool2d", "output_size", output_size)
    if rows < 1 or columns < 1:
        raise ShapeError(f"adaptive_avg_pool2d: output_size is {output_size}, expected 1 or more")
    if x.ndim != 4:
        raise ShapeError(f"adaptive_avg_pool2d: x is {x.shape}, expected (N, H, W, C)")
    x = contiguous(x)
    shape = x.shape
    module, context = kernels.of(x)
    y = empty((shape[0], rows, columns, shape[3]), x.dtype, x)
    module.adaptive_avg_pool2d_forward(context, y, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty(shape, dy.dtype, dy)
        module.adaptive_avg_pool2d_backward(context, dx, contiguous(dy))
        return (dx,)

    return y, backward
