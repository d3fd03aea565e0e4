"""Connectionist temporal classification: sequences of labels whose places in time are not known."""

from __future__ import annotations

import numpy as np

from imgrec_engine import deferred, kernels
from imgrec_engine.arrays import where
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import float32, float64, int64
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.reduction import total

__all__ = ["ctc_loss"]


def _lengths(name: str, lengths: Array | None, all_of: int, like: Array) -> Array:
    """One length a sample, as the kernel takes them."""
    shape = like.shape[:1]
    if lengths is None:
        full = empty(shape, int64, like)
        full[...] = all_of
        return full
    if lengths.dtype.kind not in "iu":
        raise DTypeError(f"ctc_loss: {name} are {lengths.dtype.name}, expected integers")
    if lengths.shape != shape:
        raise ShapeError(f"ctc_loss: {name} are {lengths.shape}, expected {shape}, one for each sample")
    return lengths.astype(int64, order="C")


def _check(log_probs: Array, targets: Array, reduction: str) -> None:
    if log_probs.ndim != 3 or targets.ndim != 2 or len(log_probs) != len(targets):
        raise ShapeError(
            f"ctc_loss: log_probs are {log_probs.shape} and targets {targets.shape}; "
            "expected (N, T, classes) and (N, S)"
        )
    if targets.dtype.kind not in "iu":
        raise DTypeError(f"ctc_loss: targets are {targets.dtype.name}, expected integers")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"ctc_loss: reduction is {reduction!r}, expected 'none', 'mean' or 'sum'")


def _check_samples(first_invalid: Array, log_probs: Array, targets: Array, blank: int) -> None:
    """ValueError where a sample cannot be; on a GPU, where that sample's loss is NaN, without waiting for it."""
    is_here = isinstance(first_invalid, np.ndarray)
    if is_here and first_invalid[0] < 0:
        return
    message = (
        f"ctc_loss: sample {{}} has a length or target out of range; expected input lengths 0 to {log_probs.shape[1]}, "
        f"target lengths 0 to {targets.shape[1]}, targets 0 to {log_probs.shape[2] - 1} without {blank}, which is blank"
    )
    if is_here:
        raise ValueError(message.format(first_invalid[0]))
    deferred.note(np.where(first_invalid >= 0, first_invalid, deferred.NOTHING), ValueError, message)


@differentiable(precision="full")
def ctc_loss(
    log_probs: Array,
    targets: Array,
    input_lengths: Array | None = None,
    target_lengths: Array | None = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Result:
    """-log of the probability of all ways in which a sequence of class probabilities spells its targets.

    A way names a class or ``blank`` at every step; merging repetitions and then dropping blanks must leave the targets.

    Args:
        log_probs: log probabilities of the classes (N, T, classes), as `log_softmax` gives them, of any floating dtype;
            computed in float32 (float64 for float64).
        targets: classes (N, S), integers other than ``blank``; what is beyond a sample's target length is not read.
        input_lengths: how many of the T steps each sample has (N,); all where left out.
        target_lengths: how many of the S targets each sample has (N,); all where left out.
        blank: the class that stands for nothing.
        reduction: "none" (N,), "sum", or "mean": each loss is divided by its target length (at least 1), then the mean
            over the samples is taken, as in PyTorch.
        zero_infinity: count targets that are too long for their input, whose loss is infinite, as loss 0 without a
            gradient.

    Raises:
        ShapeError, DTypeError: what does not fit.
        ValueError: a length or a target out of its range; an unknown reduction.

    Source: Graves et al., "Connectionist temporal classification", ICML 2006. As in PyTorch, but batch first.

    >>> import imgrec_engine as ie
    >>> certain = ie.tensor([[[0.0, -100.0], [-100.0, 0.0], [0.0, -100.0]]])  # blank, class 1, blank
    >>> abs(round(ctc_loss(certain, ie.tensor([[1]])).item(), 4))
    0.0

    """
    _check(log_probs, targets, reduction)
    x, t = contiguous(log_probs), targets.astype(int64, order="C")  # copies: the kernels rely on what they have seen
    steps = _lengths("input_lengths", input_lengths, x.shape[1], x)
    labels = _lengths("target_lengths", target_lengths, t.shape[1], x)
    wide = float64 if x.dtype == float64 else float32
    module, context = kernels.of(x)
    loss, first_invalid = empty(x.shape[:1], wide, x), empty((1,), int64, x)
    alpha = empty((*x.shape[:2], 2 * t.shape[1] + 1), wide, x)
    plan = module.ctc_plan(context, *x.shape, t.shape[1], x.dtype)
    sample = (x, t, steps, labels, int(blank))
    module.ctc_forward(context, loss, alpha, first_invalid, *sample, kernels.workspace(plan, x))
    _check_samples(first_invalid, x, t, blank)
    counted = where(np.isinf(loss), loss.dtype.type(0), loss, wide) if zero_infinity else loss
    share = (1 / (max(len(x), 1) * np.maximum(labels, 1))).astype(wide) if reduction == "mean" else 1

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx, dloss = empty_like(x), empty_like(loss)
        dloss[...] = dy.astype(wide, copy=False) * share
        module.ctc_backward(context, dx, dloss, loss, alpha, *sample, bool(zero_infinity), kernels.workspace(plan, x))
        return dx, None, None, None

    result = counted if reduction == "none" else total(counted * share, (0,)).reshape(())
    return result.astype(x.dtype, copy=False), backward
