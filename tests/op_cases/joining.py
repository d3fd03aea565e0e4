import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample


def split(x, sizes, axis=0):
    ends = range(sizes, x.shape[axis], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return tuple(np.split(x, list(ends), axis))


CASES = (
    OpCase(
        F.concatenate,
        np.concatenate,
        (
            sample([normal(2, 3), normal(4, 3)]),
            sample([normal(2, 3), normal(2, 0), normal(2, 1)], axis=-1),
            sample([normal(5)]),
            sample([integers(2, high=5), integers(3, high=5)]),
        ),
        (
            bad(ShapeError, r"tensors\[1\] has shape \(2, 4\)", [normal(2, 3), normal(2, 4)]),
            bad(ShapeError, r"tensors\[1\] has shape \(2,\)", [normal(2, 3), normal(2)], axis=1),
            bad(ShapeError, "axis 2 is out of range", [normal(2, 3)], axis=2),
            bad(TypeError, r"tensors is \[\], expected a list", []),
            bad(TypeError, r"tensors\[1\] is of type str", [normal(2), "x"]),
        ),
    ),
    OpCase(
        F.stack,
        np.stack,
        (sample([normal(2, 3), normal(2, 3)]), sample([normal(3), normal(3)], axis=-1), sample([normal(), normal()])),
        (
            bad(ShapeError, r"tensors\[1\] has shape \(2,\), expected", [normal(3), normal(2)]),
            bad(ShapeError, "axis 2 is out of range", [normal(3)], axis=2),
        ),
    ),
    OpCase(
        F.split,
        split,
        (
            sample(normal(5, 2), 2),
            sample(normal(5, 2), [1, 4]),
            sample(normal(2, 6), (0, 6), axis=-1),
            sample(normal(3), 3),
            sample(normal(0, 3), 2),
        ),
        (
            bad(ShapeError, r"add up to 5", normal(5), [2, 2]),
            bad(ShapeError, "sizes is 0", normal(5), 0),
            bad(ShapeError, "axis 1 is out of range", normal(5), 1, axis=1),
        ),
    ),
)
