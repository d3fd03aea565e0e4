"""Normalisation: batch_norm over all axes but the last, layer_norm over the last."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import float32, float64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.activation import activation_name

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

__all__ = ["batch_norm", "layer_norm"]

Shape = tuple[int, ...]


def _checked(op: str, x: Array) -> Array:
    """X (..., columns) without gaps."""
    if not is_floating(x.dtype):
        raise DTypeError(f"{op}: x is {x.dtype.name}, expected a floating dtype")
    if x.ndim == 0:
        raise ShapeError(f"{op}: x has no dimensions, expected one at least")
    return contiguous(x)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of statistics and parameters beside x of this dtype."""
    return float64 if dtype == float64 else float32


def _per_column(op: str, name: str, values: Array | None, columns: Shape, wide: np.dtype[Any]) -> Array | None:
    """One number for each of the columns, in the dtype that the kernels take."""
    if values is None:
        return None
    if values.shape != columns:
        raise ShapeError(f"{op}: {name} is {values.shape}, expected {columns}, the length of x's last axis")
    if values.dtype != wide:
        return values.astype(wide, order="C")
    return contiguous(values)


@functools.lru_cache(maxsize=4096)
def _plan(module: Any, context: Any, shape: Shape, dtype: np.dtype[Any]) -> kernels.Plan:
    """The plan of a normalisation of x (..., columns)."""
    return kernels.new_plan(module.norm_plan, context, math.prod(shape[:-1]), shape[-1], dtype)


def _announces_writes(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Counts the write to the running statistics, as any other in-place write, before batch_norm sees mere arrays."""

    @functools.wraps(op)
    def call(
        x: Array,
        running_mean: Array | None,
        running_var: Array | None,
        weight: Array | None,
        bias: Array | None,
        training: bool,
        momentum: float = 0.1,
        eps: float = 1e-5,
        activation: str | None = None,
    ) -> Tensor:
        if not isinstance(training, (bool, np.bool_)):
            raise TypeError(f"batch_norm: training is {training!r}, expected True or False")
        for statistics in (running_mean, running_var) if training else ():
            if statistics is not None and hasattr(statistics, "_wrote"):  # what is no Tensor is refused below
                statistics._check_write("batch_norm")
                statistics._wrote()
        return op(x, running_mean, running_var, weight, bias, training, momentum, eps, activation)

    return call


@_announces_writes
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
    x, kind = _checked("batch_norm", x), activation_name("batch_norm", activation)
    wide = _wide(x.dtype)
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: running_mean and running_var are None, but needed where training is False")
    shape, columns = x.shape, x.shape[-1:]
    moving_mean = _per_column("batch_norm", "running_mean", running_mean, columns, wide)
    moving_var = _per_column("batch_norm", "running_var", running_var, columns, wide)
    w = _per_column("batch_norm", "weight", weight, columns, wide)
    b = _per_column("batch_norm", "bias", bias, columns, wide)
    module, context = kernels.of(x)
    plan = _plan(module, context, shape, x.dtype)
    y, statistics = empty(shape, x.dtype, x), empty((2, *columns), wide, x)
    workspace = kernels.workspace(plan, x)
    module.batch_norm_forward(
        context, y, statistics, moving_mean, moving_var, x, w, b, training, momentum, eps, kind, workspace
    )
    if training:
        for values, moved in ((running_mean, moving_mean), (running_var, moving_var)):
            if values is not None and values is not moved:  # the kernel moved a copy: of 16 bits, or with gaps
                values[...] = moved

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx, dweight, dbias = empty_like(x), empty(columns, wide, x), empty(columns, wide, x)
        scratch, dy = kernels.workspace(plan, x), contiguous(dy)
        module.batch_norm_backward(context, dx, dweight, dbias, dy, x, w, b, statistics, training, kind, scratch)
        return dx, None, None, dweight, dbias

    return y, backward


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
    x, kind = _checked("layer_norm", x), activation_name("layer_norm", activation)
    wide = _wide(x.dtype)
    shape, columns = x.shape, x.shape[-1:]
    w = _per_column("layer_norm", "weight", weight, columns, wide)
    b = _per_column("layer_norm", "bias", bias, columns, wide)
    module, context = kernels.of(x)
    y, statistics = empty(shape, x.dtype, x), empty((2, math.prod(shape[:-1])), wide, x)
    module.layer_norm_forward(context, y, statistics, x, w, b, eps, kind)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx, dweight, dbias = empty_like(x), empty(columns, wide, x), empty(columns, wide, x)
        workspace, dy = kernels.workspace(_plan(module, context, shape, x.dtype), x), contiguous(dy)
        module.layer_norm_backward(context, dx, dweight, dbias, dy, x, w, b, statistics, kind, workspace)
        return dx, dweight, dbias

    return y, backward
