"""Normalisation: batch_norm over all axes but the last, layer_norm over the last."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable, mode
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import float32, float64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.activation import activation_name

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

__all__ = ["batch_norm", "layer_norm"]

Shape = tuple[int, ...]


class _Norm:
    """What the kernels are told about normalisations of certain shapes besides their arrays, and their plan."""

    def __init__(self, op: str, module: Any, context: Any, x: Shape, dtype: np.dtype[Any]) -> None:
        if not is_floating(dtype):
            raise DTypeError(f"{op}: x is {dtype.name}, expected a floating dtype")
        if not x:
            raise ShapeError(f"{op}: x has no dimensions, expected one at least")
        self.module, self.context = module, context
        self.wide = float64 if dtype == float64 else float32  # the dtype of statistics and parameters
        self.columns, rows = x[-1:], math.prod(x[:-1])
        self.batch_statistics, self.layer_statistics = (2, *self.columns), (2, rows)
        self.plan = kernels.new_plan(module.norm_plan, context, rows, x[-1], dtype)


_norm = functools.lru_cache(maxsize=4096)(_Norm)  # the same one for the same description


def _per_column(values: Array | None, wide: np.dtype[Any]) -> Array | None:
    """One number for each of the columns, as the kernels take them."""
    if values is None or values.dtype == wide:
        return values if values is None else contiguous(values)
    return values.astype(wide, order="C")


@differentiable
def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Result:
    """(x - mean) / sqrt(var + eps) * weight + bias for x (..., C), with a mean and a variance for each of C channels.

    An activation may follow before the result is written: None, "relu", "gelu", "silu", "sigmoid" or "tanh".

    In training they are those of x over all other axes, and the running statistics move in place towards them:
    ``running = (1 - momentum) running + momentum new``, with the unbiased variance. Otherwise those are used.
    Statistics, weight and bias are (C,), of any floating dtype; all is computed in float32 (float64 for float64 x).
    Weight and bias may be None, in training the running statistics too; the latter get no gradient.

    ShapeError where shapes do not fit, or in training fewer than two values are left to a channel.
    Ioffe and Szegedy, "Batch normalization", ICML 2015.

    >>> import imgrec_engine as ie
    >>> mean, var = ie.zeros(1), ie.ones(1)
    >>> batch_norm(ie.tensor([[1.0], [3.0]]), mean, var, None, None, training=True).numpy().ravel().round(3)
    array([-1.,  1.], dtype=float32)
    >>> round(mean.item(), 6), round(var.item(), 6)
    (0.2, 1.1)
    """
    if not isinstance(training, (bool, np.bool_)):
        raise TypeError(f"batch_norm: training is {training!r}, expected True or False")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: running_mean and running_var are None, but needed where training is False")
    module, context = kernels.of(x)
    call = _norm("batch_norm", module, context, x.shape, x.dtype)
    kind, wide = activation_name("batch_norm", activation), call.wide
    moving = _to_be_moved(running_mean, running_var) if training else ()
    moving_mean, moving_var = _per_column(running_mean, wide), _per_column(running_var, wide)
    x, w, b = contiguous(x), _per_column(weight, wide), _per_column(bias, wide)
    y, statistics = empty_like(x), empty(call.batch_statistics, wide, x)
    workspace = kernels.workspace(call.plan, x)
    module.batch_norm_forward(
        context, y, statistics, moving_mean, moving_var, x, w, b, training, momentum, eps, kind, workspace
    )
    for tensor in moving:
        moved = moving_mean if tensor._array is running_mean else moving_var
        if tensor._array is not moved:  # the kernel moved a copy: of 16 bits, or with gaps
            tensor._array[...] = moved
        tensor._wrote()

    def backward(dy: Array, needs: Needs) -> Gradients:
        module, context, columns, wide = call.module, call.context, call.columns, call.wide
        dx, dweight, dbias = empty_like(x), empty(columns, wide, x), empty(columns, wide, x)
        scratch, dy = kernels.workspace(call.plan, x), contiguous(dy)
        module.batch_norm_backward(context, dx, dweight, dbias, dy, x, w, b, statistics, training, kind, scratch)
        return dx, None, None, dweight, dbias

    return y, backward


def _to_be_moved(*statistics: Array | None) -> list[Tensor]:
    """The tensors of the running statistics, which is where writes in place are counted."""
    tensors = [tensor for tensor in mode().given if any(tensor._array is array for array in statistics)]
    for tensor in tensors:
        tensor._check_write("batch_norm")
    return tensors


@differentiable(precision="full")
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Result:
    """(x - mean) / sqrt(var + eps) * weight + bias for x (..., C), each row of C with its own mean and variance.

    An activation may follow before the result is written: None, "relu", "gelu", "silu", "sigmoid" or "tanh".

    Weight and bias are (C,), of any floating dtype; all is computed in float32 (float64 for float64 x).
    ShapeError where shapes do not fit. Ba, Kiros and Hinton, "Layer normalization", 2016.

    >>> import imgrec_engine as ie
    >>> layer_norm(ie.tensor([[1.0, 3.0], [10.0, 20.0]])).numpy().round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    module, context = kernels.of(x)
    call = _norm("layer_norm", module, context, x.shape, x.dtype)
    kind, wide = activation_name("layer_norm", activation), call.wide
    x, w, b = contiguous(x), _per_column(weight, wide), _per_column(bias, wide)
    y, statistics = empty_like(x), empty(call.layer_statistics, wide, x)
    module.layer_norm_forward(context, y, statistics, x, w, b, eps, kind)

    def backward(dy: Array, needs: Needs) -> Gradients:
        module, context, columns, wide = call.module, call.context, call.columns, call.wide
        dx, dweight, dbias = empty_like(x), empty(columns, wide, x), empty(columns, wide, x)
        workspace, dy = kernels.workspace(call.plan, x), contiguous(dy)
        module.layer_norm_backward(context, dx, dweight, dbias, dy, x, w, b, statistics, kind, workspace)
        return dx, dweight, dbias

    return y, backward
