from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample

CASES = (
    OpCase(
        F.embedding,
        lambda indices, weight: weight[indices],
        (
            sample(integers(4, 6, high=7), normal(7, 5)),
            sample(integers(20_000, high=2), normal(3, 4)),
            sample(integers(high=7), normal(7, 5)),
            sample(integers(0, 3, high=7), normal(7, 5)),
        ),
        (
            bad(IndexError, "an index is 7, expected 0 to 6", integers(3, low=7, high=8), normal(7, 5)),
            bad(IndexError, "an index is -1, expected 0 to 6", integers(3, low=-1, high=0), normal(7, 5)),
            bad(DTypeError, "indices are float32, expected integers", normal(3), normal(7, 5)),
            bad(ShapeError, r"weight has shape \(7,\)", integers(3, high=7), normal(7)),
        ),
    ),
)
