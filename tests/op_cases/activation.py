import math

import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError
from op_cases.table import OpCase, bad, distinct, integers, normal, sample

erf = np.vectorize(math.erf, otypes=[float])

SAMPLES = (sample(distinct(3, 37)), sample(normal(1)), sample(normal(0, 4)), sample(normal(70_001)))
REFUSED = (bad(DTypeError, "x is int64", integers(3, high=2)), bad(TypeError, "x is of type list", [1.0]))


def case(op, reference):
    return OpCase(op, reference, SAMPLES, REFUSED)


CASES = (
    case(F.relu, lambda x: np.maximum(x, 0)),
    case(F.gelu, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    case(F.silu, lambda x: x / (1 + np.exp(-x))),
    case(F.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    case(F.tanh, np.tanh),
)
