import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, booleans, distinct, integers, normal, sample, uniform

OVER_AXES = (
    sample(distinct(3, 4, 5)),
    sample(distinct(3, 4, 5), axis=1),
    sample(distinct(3, 4, 5), axis=(0, -1), keepdims=True),
    sample(distinct(3, 1), axis=0),
    sample(distinct()),
)
LONG = (sample(uniform(100_000, low=0.0)), sample(uniform(100_000, 2, low=0.0), axis=0))
NO_ELEMENTS = (sample(normal(3, 0), axis=0), sample(normal(0, 3), axis=1, keepdims=True))
REFUSED = (
    bad(ShapeError, "axis 3 is out of range", normal(2, 3), axis=3),
    bad(ShapeError, "twice", normal(2, 3), axis=(1, -1)),
)
FOR_KERNELS = tuple(
    sample(normal(11, 90, 37), axis=axes, keepdims=kept)
    for axes, kept in [(0, False), ((0, 1), True), (1, False), ((1, 2), False), (None, True)]
)
WHOLE = bad(DTypeError, "x is int64, expected a floating dtype", integers(3, high=3))


def deviations(op, reference):
    def with_correction(x, axis=None, correction=1, keepdims=False):
        return reference(x, axis=axis, ddof=correction, keepdims=keepdims)

    samples = (
        sample(normal(3, 4, 5)),
        sample(normal(3, 4, 5), axis=1),
        sample(normal(3, 4, 5), axis=(0, -1), correction=0, keepdims=True),
        sample(uniform(50_000, 2, low=9.0, high=10.0), axis=0),
        sample(normal(0, 3), axis=1),
    )
    # reduction=4: the inputs' distance from their mean carries the rounding of what is 10 times as large
    return OpCase(op, with_correction, samples, (*REFUSED, WHOLE), reduction=4)


def extreme(op, reference):
    samples = (*OVER_AXES, *NO_ELEMENTS[1:], sample(integers(4, 5, high=9), axis=0))
    return OpCase(op, reference, samples, (*REFUSED, bad(ShapeError, "no elements", normal(2, 0), axis=1)))


def position(op, reference):
    samples = (
        sample(distinct(3, 4, 5)),
        sample(distinct(3, 4, 5), axis=-1),
        sample(distinct(3, 4, 5), axis=1, keepdims=True),
        sample(integers(4, 5, high=2), axis=0),
    )
    refused = (REFUSED[0], bad(ShapeError, "no elements", normal(2, 0), axis=1))
    return OpCase(op, reference, samples, refused, differentiable=False)


def logic(op, reference):
    samples = (
        sample(booleans(3, 4)),
        sample(booleans(3, 4), axis=1),
        sample(booleans(3, 4), axis=(0, 1), keepdims=True),
        sample(booleans(3, 0), axis=1),
        sample(integers(3, 4, high=2), axis=0),
    )
    return OpCase(op, reference, samples, REFUSED, differentiable=False)


CASES = (
    OpCase(
        F.sum,
        np.sum,
        (
            *OVER_AXES,
            *NO_ELEMENTS,
            *LONG,
            sample(integers(4, 5, high=9), axis=0),
            *FOR_KERNELS,
        ),
        REFUSED,
    ),
    OpCase(F.mean, np.mean, (*OVER_AXES, NO_ELEMENTS[1], *LONG, *FOR_KERNELS), (*REFUSED, WHOLE)),
    deviations(F.var, np.var),
    deviations(F.std, np.std),
    extreme(F.max, np.max),
    extreme(F.min, np.min),
    position(F.argmax, np.argmax),
    position(F.argmin, np.argmin),
    logic(F.all, np.all),
    logic(F.any, np.any),
    OpCase(
        F.cumsum,
        np.cumsum,
        (
            sample(normal(3, 4), axis=1),
            sample(normal(3, 4), axis=-2),
            sample(normal(0, 4), axis=0),
            sample(integers(5, high=9), axis=0),
            sample(uniform(100_000, low=0.0), axis=0),
        ),
        (REFUSED[0],),
    ),
)
