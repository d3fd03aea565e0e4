import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, booleans, distinct, integers, normal, sample


def compare(op, reference):
    samples = (
        sample(distinct(3, 4), distinct(4)),
        sample(integers(4, 5, high=3), integers(4, 5, high=3)),
        sample(integers(20, high=3), 1),
        sample(1, integers(20, high=3)),
        sample(distinct(0, 3), distinct(1, 3)),
    )
    refused = (
        bad(ShapeError, "do not broadcast", normal(2, 3), normal(4)),
        bad(TypeError, "y is of type list", normal(2), [1, 2]),
    )
    return OpCase(op, reference, samples, refused, differentiable=False)


def connect(op, reference):
    samples = (sample(booleans(4, 5), booleans(5)), sample(booleans(3), True), sample(booleans(0), booleans(1)))
    refused = (
        bad(DTypeError, "y is int64, expected bool", booleans(2), integers(2, high=2)),
        bad(DTypeError, "x is int, expected bool", 1, booleans(2)),
    )
    return OpCase(op, reference, samples, refused, differentiable=False)


def classify(op, reference):
    def some(generator):
        return np.array([1.0, np.inf, -np.inf, np.nan])

    return OpCase(op, reference, (sample(some), sample(normal(0))), differentiable=False)


CASES = (
    compare(F.equal, np.equal),
    compare(F.not_equal, np.not_equal),
    compare(F.less, np.less),
    compare(F.less_equal, np.less_equal),
    compare(F.greater, np.greater),
    compare(F.greater_equal, np.greater_equal),
    connect(F.logical_and, np.logical_and),
    connect(F.logical_or, np.logical_or),
    OpCase(
        F.logical_not,
        np.logical_not,
        (sample(booleans(4, 5)),),
        (bad(DTypeError, "x is float32, expected bool", normal(2)),),
        differentiable=False,
    ),
    classify(F.isfinite, np.isfinite),
    classify(F.isnan, np.isnan),
)
