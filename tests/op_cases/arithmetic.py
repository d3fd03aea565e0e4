import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, booleans, distinct, integers, normal, sample, uniform

SAMPLES = (
    sample(normal(3, 4), distinct(3, 4)),
    sample(normal(2, 1, 4), distinct(3, 1)),
    sample(normal(3), 2.5),
    sample(-1.5, distinct(3)),
    sample(normal(0, 3), distinct(1, 3)),
)
REFUSED = (
    bad(ShapeError, r"\(2, 3\) and \(4,\) do not broadcast", normal(2, 3), normal(4)),
    bad(TypeError, "y is of type str, expected a Tensor", normal(2), "2"),
    bad(TypeError, "expected a Tensor at least for one", 1, 2),
)


def case(op, reference, samples=SAMPLES, refused=()):
    return OpCase(op, reference, samples, REFUSED + refused)


POWERS = (
    sample(normal(3, 4), 2),
    sample(normal(3, 4), 3),
    sample(uniform(3, 1, low=0.5, high=2.0), uniform(4, low=-2.0, high=2.0)),
    sample(2.0, normal(3)),
    sample(uniform(5, low=0.5, high=2.0), -0.5),
    sample(normal(5), 0),
    sample(normal(0), 2),
)

CASES = (
    case(
        F.add,
        np.add,
        (
            *SAMPLES,
            sample(normal(3, 1), normal(1, 50_000)),
            *(sample(normal(60, 7, 50), normal(*tail)) for tail in [(60, 7, 50), (7, 50), (50,)]),  # by the kernel
            sample(normal(50), normal(400, 50)),
        ),
    ),
    case(F.subtract, np.subtract, refused=(bad(DTypeError, "expected numbers", booleans(2), booleans(2)),)),
    case(F.multiply, np.multiply),
    case(F.divide, np.divide),
    case(F.maximum, np.maximum),
    case(F.minimum, np.minimum),
    case(F.power, np.power, POWERS, (bad(ValueError, "negative integers", integers(3, low=1, high=4), -1),)),
    OpCase(
        F.negative,
        np.negative,
        (sample(normal(3, 4)), sample(normal(0))),
        (bad(DTypeError, "expected numbers", booleans(2)), bad(TypeError, "x is of type float", 1.0)),
    ),
)
