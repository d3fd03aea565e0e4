import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample, uniform


def softmax(x, axis=-1):
    return np.exp(log_softmax(x, axis))


def log_softmax(x, axis=-1):
    shifted = x - x.max(axis=axis, keepdims=True, initial=-1e300)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


SAMPLES = (
    sample(normal(5, 37)),
    sample(normal(3, 4, 5), axis=1),
    sample(normal(4, 16), axis=-2),
    sample(uniform(2, 9, low=298.0, high=302.0)),  # exp overflows float32 unless the maximum is taken off
    sample(normal(3, 1)),
    sample(normal(0, 4)),
    sample(normal(40, 1_000)),
)
REFUSED = (
    bad(ShapeError, r"axis 2 is out of range for x of shape \(2, 3\)", normal(2, 3), axis=2),
    bad(ShapeError, "axis -1 is out of range", normal()),
    bad(DTypeError, "x is int64", integers(3, high=2)),
)

CASES = (
    OpCase(F.softmax, softmax, SAMPLES, REFUSED),
    OpCase(F.log_softmax, log_softmax, SAMPLES, REFUSED),
)
