import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample, uniform


def constant(values, like):
    return None if values is None else ie.tensor(np.asarray(values, dtype=np.float64), device=like.device)


def cross_entropy(logits, targets, weight=None, **options):
    """The op with class weights, which have no gradient, given as a list."""
    return F.cross_entropy(logits, targets, constant(weight, logits), **options)


def reduce(losses, reduction, count=None):
    if reduction == "none":
        return losses
    return losses.sum() / (losses.size if count is None else count) if reduction == "mean" else losses.sum()


def reference_cross_entropy(logits, targets, weight=None, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
    classes = logits.shape[-1]
    weights = np.ones(classes) if weight is None else np.asarray(weight)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    counted = targets != ignore_index
    one_hot = np.eye(classes)[np.where(counted, targets, 0)]
    share = (1 - label_smoothing) * one_hot + label_smoothing / classes
    losses = np.where(counted, -(share * weights * log_p).sum(-1), 0)
    return reduce(losses, reduction, ((one_hot @ weights) * counted).sum())


def binary_cross_entropy_with_logits(logits, targets, weight=None, pos_weight=None, reduction="mean"):
    weights = constant(weight, logits), constant(pos_weight, logits)
    return F.binary_cross_entropy_with_logits(logits, targets, *weights, reduction)


def reference_binary_cross_entropy(x, t, weight=None, pos_weight=None, reduction="mean"):
    positive = t if pos_weight is None else t * np.asarray(pos_weight)
    losses = positive * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
    return reduce(losses if weight is None else losses * np.asarray(weight), reduction)


def mse_loss(x, t, reduction="mean"):
    return reduce((x - t) ** 2, reduction)


def binary(*shape):
    return normal(*shape), uniform(*shape, low=0.0, high=1.0)


CASES = (
    OpCase(
        cross_entropy,
        reference_cross_entropy,
        (
            sample(normal(6, 5), integers(6, high=5)),
            sample(normal(2, 3, 70), integers(2, 3, high=70), label_smoothing=0.1),
            sample(normal(6, 3), integers(6, high=3), [0.5, 1.0, 2.0], label_smoothing=0.2),
            sample(normal(8, 3), integers(8, high=3), [0.5, 1.0, 2.0], ignore_index=1),
            sample(normal(8, 3), integers(8, low=-1, high=3), ignore_index=-1, reduction="sum"),
            sample(
                normal(2, 4, 3),
                integers(2, 4, high=3),
                [0.5, 1.0, 2.0],
                label_smoothing=0.3,
                ignore_index=2,
                reduction="none",
            ),
            sample(normal(3, 1), integers(3, high=1)),
            sample(normal(4), integers(high=4)),
            sample(normal(0, 4), integers(0, high=4), reduction="sum"),
            sample(normal(2000, 33), integers(2000, high=33), reduction="sum"),
        ),
        (
            bad(ShapeError, r"logits are \(6, 5\) and targets \(5,\)", normal(6, 5), integers(5, high=5)),
            bad(
                ShapeError,
                r"weight is float32 \(2,\), expected \(classes,\)",
                normal(6, 5),
                integers(6, high=5),
                [1, 2],
            ),
            bad(ShapeError, "expected one class or more", normal(6, 0), integers(6, high=5)),
            bad(DTypeError, "targets are float32", normal(6, 5), normal(6)),
            bad(DTypeError, "logits is int64", integers(6, 5, high=2), integers(6, high=5)),
            bad(ValueError, "a target is 9, expected 0 to 4", normal(6, 5), integers(6, low=9, high=10)),
            bad(ValueError, "a target is -1, expected 0 to 4", normal(6, 5), integers(6, low=-1, high=0)),
            bad(ValueError, "reduction is 'max'", normal(6, 5), integers(6, high=5), reduction="max"),
            bad(ValueError, "label_smoothing is 1.5", normal(6, 5), integers(6, high=5), label_smoothing=1.5),
        ),
        reduction=33,
    ),
    OpCase(
        binary_cross_entropy_with_logits,
        reference_binary_cross_entropy,
        (
            sample(*binary(3, 5)),
            sample(*binary(3, 5), [[0.5], [1.0], [2.0]], [1.0, 2.0, 3.0, 4.0, 5.0], "sum"),
            sample(*binary(70), pos_weight=[3.0], reduction="none"),
            sample(*binary(0), reduction="sum"),
            sample(*binary(40_001)),
        ),
        (
            bad(ShapeError, r"logits is \(3, 5\) and targets \(3,\)", normal(3, 5), normal(3)),
            bad(ShapeError, r"pos_weight is \(2,\), which does not broadcast", *binary(3, 5), pos_weight=[1.0, 2.0]),
            bad(DTypeError, "logits is int64", integers(3, high=2), normal(3)),
            bad(ValueError, "reduction is 'max'", *binary(3), reduction="max"),
        ),
        reduction=4,
    ),
    OpCase(
        F.mse_loss,
        mse_loss,
        (
            sample(normal(3, 5), normal(3, 5)),
            sample(normal(3, 5), normal(3, 5), "none"),
            sample(normal(0), normal(0), "sum"),
            sample(normal(40_001), normal(40_001)),
        ),
        (
            bad(ShapeError, r"input is \(3,\) and target \(4,\)", normal(3), normal(4)),
            bad(DTypeError, "input is int64", integers(3, high=2), normal(3)),
            bad(ValueError, "reduction is 'max'", normal(3), normal(3), "max"),
        ),
        reduction=4,
    ),
)
