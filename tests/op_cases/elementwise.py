import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, booleans, distinct, integers, normal, sample, uniform

NOT_A_TENSOR = (bad(TypeError, "x is of type list", [1.0]), bad(TypeError, "x is None", None))


def everywhere(op, reference):
    return OpCase(op, reference, (sample(normal(3, 5)), sample(normal()), sample(normal(0, 2))), NOT_A_TENSOR)


def positive(op, reference):
    draw = uniform(3, 5, low=0.25, high=4.0)
    return OpCase(op, reference, (sample(draw), sample(uniform(0, 2))), NOT_A_TENSOR)


CASES = (
    OpCase(F.clone, np.copy, (sample(normal(2, 3)), sample(normal(0)))),
    OpCase(F.cast, lambda x, dtype: x.astype(dtype), (sample(normal(2, 3), np.dtype(np.float64)),), dtypes=()),
    everywhere(F.exp, np.exp),
    everywhere(F.sin, np.sin),
    everywhere(F.cos, np.cos),
    positive(F.log, np.log),
    positive(F.sqrt, np.sqrt),
    OpCase(F.abs, np.abs, (sample(distinct(3, 5)), sample(integers(5, low=-3, high=3)), sample(distinct(0)))),
    OpCase(
        F.clip,
        np.clip,
        (
            sample(distinct(5, 6), -1.0, 1.0),
            sample(distinct(5, 6), None, 0.5),
            sample(distinct(5, 6), min=0),
            sample(integers(9, high=9), 2, 5),
        ),
        (bad(ValueError, "neither min nor max", normal(2)),),
    ),
    OpCase(
        F.where,
        np.where,
        (
            sample(booleans(3, 4), normal(3, 4), normal(3, 4)),
            sample(booleans(3, 1), normal(4), normal(2, 1, 1)),
            sample(booleans(4), normal(4), 0.5),
            sample(booleans(4), -1, normal(4)),
            sample(booleans(0), normal(1), normal(1)),
        ),
        (
            bad(DTypeError, "condition is float32, expected bool", normal(2), normal(2), normal(2)),
            bad(ShapeError, r"condition \(3,\) and values \(2,\)", booleans(3), normal(2), normal(2)),
            bad(ShapeError, r"\(2,\) and \(3,\) do not broadcast", booleans(3), normal(2), normal(3)),
        ),
    ),
)
