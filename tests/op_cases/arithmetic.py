import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import ShapeError
from op_cases.table import OpCase, bad, distinct, normal, sample

SAMPLES = (
    sample(normal(3, 4), distinct(3, 4)),
    sample(normal(2, 1, 4), distinct(3, 1)),
    sample(normal(3), 2.5),
    sample(-1.5, distinct(3)),
    sample(normal(0, 3), distinct(1, 3)),
)
REFUSED = (bad(ShapeError, r"\(2, 3\) and \(4,\) do not broadcast", normal(2, 3), normal(4)),)


def case(op, reference):
    return OpCase(op, reference, SAMPLES, REFUSED)


CASES = (
    case(F.add, np.add),
    case(F.subtract, np.subtract),
    case(F.multiply, np.multiply),
    case(F.divide, np.divide),
    OpCase(F.negative, np.negative, (sample(normal(3, 4)), sample(normal(0)))),
)
