"""CTC: log probabilities are made by log_softmax, as in use, so that differences along a row mean something."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample


def lengths(values, like):
    return None if values is None else ie.tensor(np.asarray(values), device=like.device)


def ctc_loss(log_probs, targets, input_lengths=None, target_lengths=None, **options):
    """The op with its lengths given as lists."""
    given = lengths(input_lengths, log_probs), lengths(target_lengths, log_probs)
    return F.ctc_loss(log_probs, targets, *given, **options)


def probability(log_probs, labels, blank):
    """Of all paths that spell the labels: the recursion over probabilities themselves."""
    states = [blank]
    for label in labels:
        states += [label, blank]
    alpha = np.zeros(len(states))
    for t, row in enumerate(np.exp(log_probs)):
        before = alpha.copy()
        for s, state in enumerate(states):
            comes = float(t == 0 and s < 2) + before[s] + (before[s - 1] if s > 0 else 0)
            if s > 1 and state not in (blank, states[s - 2]):
                comes += before[s - 2]
            alpha[s] = comes * row[state]
    return alpha[-2:].sum() if len(log_probs) else float(not labels)


def reference_ctc_loss(
    log_probs,
    targets,
    input_lengths=None,
    target_lengths=None,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    batch, steps, _ = log_probs.shape
    input_lengths = [steps] * batch if input_lengths is None else input_lengths
    target_lengths = [targets.shape[1]] * batch if target_lengths is None else target_lengths
    with np.errstate(divide="ignore"):
        losses = np.array(
            [
                -np.log(probability(x[:length], list(t[:labels]), blank))
                for x, t, length, labels in zip(log_probs, targets, input_lengths, target_lengths, strict=True)
            ]
        )
    if zero_infinity:
        losses = np.where(np.isinf(losses), 0, losses)
    if reduction == "mean":
        return (losses / np.maximum(target_lengths, 1)).mean()
    return losses if reduction == "none" else losses.sum()


CASES = (
    OpCase(
        ctc_loss,
        reference_ctc_loss,
        (
            sample(normal(3, 7, 5), integers(3, 2, low=1, high=5)),
            sample(normal(2, 9, 4), integers(2, 4, low=1, high=4), [9, 8], [3, 0], reduction="none"),
            sample(normal(3, 11, 4), integers(3, 5, high=3), [11, 10, 9], [4, 1, 3], blank=3, reduction="sum"),
            sample(
                normal(3, 4, 3),
                integers(3, 4, low=1, high=3),
                [2, 4, 0],
                [4, 1, 1],
                zero_infinity=True,
                reduction="sum",
            ),
            sample(normal(1, 30, 6), integers(1, 9, low=1, high=6)),
            sample(normal(1, 1, 2), integers(1, 1, low=1, high=2)),
            sample(normal(2, 5, 3), integers(2, 0, low=1, high=3), reduction="sum"),
            sample(normal(0, 5, 3), integers(0, 2, low=1, high=3), reduction="sum"),
        ),
        (
            bad(ShapeError, r"log_probs are \(4, 3\) and targets \(4,\)", normal(4, 3), integers(4, low=1, high=3)),
            bad(ShapeError, r"input_lengths are \(1,\), expected \(2,\)", normal(2, 4, 3), integers(2, 1, high=3), [4]),
            bad(DTypeError, "targets are float32", normal(2, 4, 3), normal(2, 1)),
            bad(DTypeError, "log_probs is int64", integers(2, 4, 3, high=2), integers(2, 1, low=1, high=3)),
            bad(
                ValueError,
                "sample 0 has a length or target out of range; .* targets 0 to 2 without 0, which is blank",
                normal(2, 4, 3),
                integers(2, 1, high=1),
            ),
            bad(
                ValueError,
                "sample 0 has a length or target out of range",
                normal(2, 4, 3),
                integers(2, 1, low=3, high=4),
            ),
            bad(
                ValueError,
                "sample 1 has a length or target out of range; expected input lengths 0 to 4",
                normal(2, 4, 3),
                integers(2, 1, low=1, high=3),
                [4, 5],
            ),
            bad(
                ValueError,
                "sample 0 has a length or target .* target lengths 0 to 1",
                normal(2, 4, 3),
                integers(2, 1, low=1, high=3),
                None,
                [-1, 1],
            ),
            bad(ValueError, "blank is 3", normal(2, 4, 3), integers(2, 1, low=1, high=3), blank=3),
            bad(ValueError, "reduction is 'max'", normal(2, 4, 3), integers(2, 1, low=1, high=3), reduction="max"),
        ),
        reduction=30,
    ),
)
