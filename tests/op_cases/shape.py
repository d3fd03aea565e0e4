import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import ShapeError
from op_cases.table import OpCase, bad, normal, sample

CASES = (
    OpCase(
        F.reshape,
        lambda x, *shape: x.reshape(*shape),
        (sample(normal(3, 4), 2, 6), sample(normal(3, 4), (-1,)), sample(normal(0, 4), (4, 0))),
        (bad(ShapeError, r"\(3, 4\) cannot take the shape \(5, 2\)", normal(3, 4), (5, 2)),),
    ),
    OpCase(
        F.permute,
        np.transpose,
        (sample(normal(2, 3, 4), (2, 0, 1)), sample(normal(2, 3), (-1, 0)), sample(normal(0, 3), (1, 0))),
        (bad(ShapeError, "do not name each dimension", normal(2, 3), (0, 0)),),
    ),
)
