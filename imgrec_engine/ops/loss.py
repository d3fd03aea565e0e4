"""Losses: what training makes small."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from imgrec_engine import deferred, kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import float32, float64, int64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss"]


def _wide(array: Array) -> np.dtype[Any]:
    """The dtype in which losses are computed."""
    return float64 if array.dtype == float64 else float32


def _new_loss(shape: tuple[int, ...], reduction: str, x: Array) -> Array:
    """What the kernels write: a loss for each element of this shape, or one."""
    return empty(shape if reduction == "none" else (), _wide(x), x)


def _finish(loss: Array, dtype: np.dtype[Any]) -> Array:
    """The kernel's losses in the dtype of the result."""
    return loss if dtype == loss.dtype else loss.astype(dtype)


def _start(dy: Array, wide: np.dtype[Any]) -> Array:
    """The result's gradient as the kernels take it."""
    return contiguous(dy.astype(wide, copy=False))


@differentiable(precision="full")
def cross_entropy(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Result:
    """-log softmax(logits)[target], for logits (..., classes) and integer targets (...).

    With ``label_smoothing`` s a target counts 1 - s and every class s / classes more. ``weight`` (classes,), which gets
    no gradient, scales each class's terms. Targets equal to ``ignore_index`` count nothing. ``reduction`` is "none" (a
    loss for each target), "sum", or "mean": the sum divided by the weights of the targets that count, NaN if none does.
    Any floating dtype, computed in float32 (float64 for float64). As in PyTorch, but for classes being the last axis.

    ShapeError and DTypeError name what does not fit; ValueError a target that is no class (on GPUs when values are
    next asked for; its loss is NaN). Szegedy et al., "Rethinking
    the Inception architecture", CVPR 2016, for label smoothing.

    >>> import imgrec_engine as ie
    >>> round(cross_entropy(ie.tensor([[2.0, 0.0], [0.0, 0.0]]), ie.tensor([0, 1])).item(), 4)
    0.41
    """
    if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
        raise ShapeError(
            f"cross_entropy: logits are {logits.shape} and targets {targets.shape}, expected (..., classes) and (...)"
        )
    if targets.dtype.kind not in "iu":
        raise DTypeError(f"cross_entropy: targets are {targets.dtype.name}, expected integers")
    shape, dtype = logits.shape, logits.dtype
    x = contiguous(logits)
    t = targets.astype(int64, order="C")  # a copy: the kernel relies on what the check has seen
    if x.ndim != 2:
        x, t = x.reshape(math.prod(shape[:-1]), shape[-1]), t.reshape(-1)
    wide = _wide(x)
    w = None if weight is None else contiguous(weight.astype(wide, copy=False))
    options = (float(label_smoothing), int(ignore_index), reduction)
    module, context = kernels.of(x)
    count = len(t)
    workspace = kernels.workspace(kernels.plan(module.cross_entropy_plan, context, count, x.dtype, reduction), x)
    loss = _new_loss(shape[:-1], reduction, x)
    statistics, first_invalid = empty((count + 1,), wide, x), empty((1,), int64, x)
    module.cross_entropy_forward(context, loss, statistics, first_invalid, x, t, w, *options, workspace)
    _check_targets(first_invalid, t, shape, ignore_index)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty_like(x)
        module.cross_entropy_backward(context, dx, _start(dy, wide), x, statistics, t, w, *options)
        return dx.reshape(shape), None, None

    return _finish(loss, dtype), backward


def _check_targets(first_invalid: Array, targets: Array, shape: tuple[int, ...], ignore_index: int) -> None:
    """ValueError where a row's target is no class; on a GPU, where that row's loss is NaN, without waiting for it."""
    is_here = isinstance(targets, np.ndarray)
    if targets.size == 0 or (is_here and first_invalid[0] < 0):
        return
    message = (
        f"cross_entropy: a target is {{}}, expected 0 to {shape[-1] - 1}, the classes of logits {shape}, or "
        f"ignore_index {ignore_index}"
    )
    if is_here:
        raise ValueError(message.format(targets[first_invalid[0]]))
    wrong = np.where(first_invalid >= 0, targets[first_invalid], deferred.NOTHING)
    deferred.note(wrong, ValueError, message)


def _same_shape(op: str, name: str, x: Array, other_name: str, other: Array) -> tuple[Array, Array]:
    """Both as contiguous arrays of the first one's dtype."""
    if x.shape != other.shape:
        raise ShapeError(f"{op}: {name} is {x.shape} and {other_name} {other.shape}; they must have the same shape")
    if not is_floating(x.dtype):
        raise DTypeError(f"{op}: {name} is {x.dtype.name}, expected a floating dtype")
    return contiguous(x), contiguous(other.astype(x.dtype, copy=False))


def _weights(name: str, weights: Array | None, x: Array) -> Array | None:
    """Weights repeated to the shape of x, as the kernels take them."""
    if weights is None:
        return None
    try:
        return contiguous(np.broadcast_to(weights.astype(_wide(x), copy=False), x.shape))
    except ValueError:
        raise ShapeError(
            f"binary_cross_entropy_with_logits: {name} is {weights.shape}, which does not broadcast to {x.shape}"
        ) from None


@differentiable(precision="full")
def binary_cross_entropy_with_logits(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: str = "mean",
) -> Result:
    """-(pos_weight t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))) weight, for logits x and targets t of one shape.

    Both weights broadcast to that shape and get no gradient. ``reduction`` is "none", "mean" (over all elements) or
    "sum". Any floating dtype, computed in float32 (float64 for float64), without overflow for any logit.

    >>> import imgrec_engine as ie
    >>> loss = binary_cross_entropy_with_logits(ie.tensor([0.0, 100.0]), ie.tensor([1.0, 0.0]), reduction="none")
    >>> loss.numpy().round(4)
    array([  0.6931, 100.    ], dtype=float32)
    """
    x, t = _same_shape("binary_cross_entropy_with_logits", "logits", logits, "targets", targets)
    w, pw = _weights("weight", weight, x), _weights("pos_weight", pos_weight, x)
    module, context = kernels.of(x)
    plan = module.elementwise_loss_plan(context, x.size, "binary_cross_entropy_with_logits", reduction)
    wide = _wide(x)
    loss, workspace = _new_loss(x.shape, reduction, x), kernels.workspace(plan, x)
    module.binary_cross_entropy_with_logits_forward(context, loss, x, t, w, pw, reduction, workspace)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx, dt = (empty_like(x) if needed else None for needed in needs[:2])
        module.binary_cross_entropy_with_logits_backward(context, dx, dt, _start(dy, wide), x, t, w, pw, reduction)
        return dx, dt, None, None

    return _finish(loss, x.dtype), backward


@differentiable(precision="full")
def mse_loss(input: Array, target: Array, reduction: str = "mean") -> Result:
    """(input - target)^2 for two tensors of one shape; ``reduction`` is "none", "mean" or "sum".

    Any floating dtype, computed in float32 (float64 for float64).

    >>> import imgrec_engine as ie
    >>> mse_loss(ie.tensor([1.0, 2.0]), ie.tensor([1.0, 4.0])).item()
    2.0
    """
    x, t = _same_shape("mse_loss", "input", input, "target", target)
    module, context = kernels.of(x)
    plan = module.elementwise_loss_plan(context, x.size, "mse_loss", reduction)
    wide = _wide(x)
    loss, workspace = _new_loss(x.shape, reduction, x), kernels.workspace(plan, x)
    module.mse_loss_forward(context, loss, x, t, reduction, workspace)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty_like(x)
        module.mse_loss_backward(context, dx, _start(dy, wide), x, t, reduction)
        return dx if needs[0] else None, np.negative(dx) if needs[1] else None

    return _finish(loss, x.dtype), backward
