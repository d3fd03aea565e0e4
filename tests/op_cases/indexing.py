import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample

MASK = np.array([True, False, True, True])

CASES = (
    OpCase(
        F.getitem,
        lambda x, index: x[index],
        (
            sample(normal(4, 5), 1),
            sample(normal(4, 5), (-1, 2)),
            sample(normal(4, 5, 6), (slice(1, 3), ..., slice(None, None, -2))),
            sample(normal(4, 5), (None, slice(0, 0))),
            sample(normal(4, 5), [0, 2, 2, -2]),
            sample(normal(4, 5), np.array([[0, 0], [3, 0]])),
            sample(normal(4, 5), (np.array([0, 0, 3]), np.array([1, 1, -1]))),
            sample(normal(4, 5), (slice(None), np.array([4, 4, 0]))),
            sample(normal(4, 5, 6), (np.array([1, 1]), slice(1, 4), np.array([[0], [5]]))),
            sample(normal(4, 5), MASK),
            sample(normal(4, 5), (MASK, 2)),
            sample(normal(2, 4), np.array([[True, False, True, True], [False] * 4])),
            sample(normal(2, 4), ([1, 1, 0], MASK)),
            sample(normal(4, 5), np.zeros((0,), dtype=np.int64)),
            sample(normal(4, 0), np.array([1, 1])),
            sample(integers(4, 5, high=9), [1, 1]),
        ),
        (
            bad(IndexError, r"x\[4, Ellipsis\] of a tensor of shape \(4,\)", normal(4), 4),
            bad(IndexError, "index 7 is out of bounds", normal(4), [7]),
            bad(IndexError, "too many indices", normal(4), (0, 0)),
            bad(IndexError, "boolean index did not match", normal(3), MASK),
            bad(IndexError, "float32.* must be of integer", normal(3), np.array([0.5])),
        ),
    ),
    OpCase(
        F.gather,
        lambda x, axis, indices: np.take_along_axis(x, indices, axis),
        (
            sample(normal(3, 4), 1, integers(3, 6, high=4)),
            sample(normal(3, 4), 0, integers(2, 4, high=3)),
            sample(normal(3, 4), -1, integers(3, 0, high=4)),
        ),
        (
            bad(ShapeError, r"indices are \(2, 1\), expected", normal(3, 4), 1, integers(2, 1, high=4)),
            bad(IndexError, "expected 0 to 3", normal(3, 4), 1, integers(3, 1, low=4, high=5)),
            bad(DTypeError, "expected integers", normal(3, 4), 1, normal(3, 1)),
            bad(ShapeError, "axis 2 is out of range", normal(3, 4), 2, integers(3, 1, high=3)),
        ),
    ),
)
