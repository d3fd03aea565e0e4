import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample


def flatten(x, start_axis=0, end_axis=-1):
    start, end = start_axis % max(x.ndim, 1), end_axis % max(x.ndim, 1)
    return x.reshape(*x.shape[:start], int(np.prod(x.shape[start : end + 1])), *x.shape[end + 1 :])


def expand(x, *shape):
    shape = shape[0] if isinstance(shape[0], tuple) else shape
    lengths = [shape[i] if shape[i] >= 0 else x.shape[i - len(shape)] for i in range(len(shape))]
    return np.broadcast_to(x, lengths)


def pad(x, widths, value=0.0):
    return np.pad(x, widths, constant_values=value)


CASES = (
    OpCase(
        F.reshape,
        lambda x, *shape: x.reshape(*shape),
        (sample(normal(3, 4), 2, 6), sample(normal(3, 4), (-1,)), sample(normal(0, 4), (4, 0))),
        (bad(ShapeError, r"\(3, 4\) cannot take the shape \(5, 2\)", normal(3, 4), (5, 2)),),
    ),
    OpCase(
        F.flatten,
        flatten,
        (sample(normal(2, 3, 4)), sample(normal(2, 3, 4), 1), sample(normal(2, 3, 4), 0, -2), sample(normal())),
        (
            bad(ShapeError, "axis 3 is out of range", normal(2, 3), 3),
            bad(ShapeError, "start_axis 1 comes after end_axis 0", normal(2, 3), 1, 0),
        ),
    ),
    OpCase(
        F.permute,
        np.transpose,
        (sample(normal(2, 3, 4), (2, 0, 1)), sample(normal(2, 3), (-1, 0)), sample(normal(0, 3), (1, 0))),
        (bad(ShapeError, "do not name each dimension", normal(2, 3), (0, 0)),),
    ),
    OpCase(
        F.transpose,
        np.swapaxes,
        (sample(normal(2, 3, 4), 0, -1), sample(normal(2, 0), 0, 1), sample(normal(2), 0, 0)),
        (bad(ShapeError, "axis 2 is out of range", normal(2, 3), 0, 2),),
    ),
    OpCase(
        F.squeeze,
        np.squeeze,
        (sample(normal(1, 3, 1)), sample(normal(1, 3, 1), -1), sample(normal(1, 3, 1), (0, 2)), sample(normal(2, 3))),
        (bad(ShapeError, "has length 3, expected 1", normal(1, 3), 1), bad(ShapeError, "axis 2", normal(1, 3), 2)),
    ),
    OpCase(
        F.unsqueeze,
        np.expand_dims,
        (sample(normal(2, 3), 0), sample(normal(2, 3), -1), sample(normal(), 0)),
        (bad(ShapeError, "axis 3 is out of range", normal(2, 3), 3),),
    ),
    OpCase(
        F.expand,
        expand,
        (sample(normal(3, 1), 2, -1, 4), sample(normal(), 2, 3), sample(normal(1, 3), 0, 3), sample(normal(3), (-1,))),
        (
            bad(ShapeError, r"\(3, 2\) cannot be expanded to \(3, 4\)", normal(3, 2), 3, 4),
            bad(ShapeError, "cannot be expanded", normal(3, 2), -1, 3, 2),
        ),
    ),
    OpCase(
        F.flip,
        np.flip,
        (sample(normal(3, 4), 0), sample(normal(3, 4), (0, -1)), sample(normal(0, 4), 1)),
        (bad(ShapeError, "axis 2 is out of range", normal(3, 4), 2),),
    ),
    OpCase(
        F.pad,
        pad,
        (
            sample(normal(3, 4), [(1, 2), (0, 0)]),
            sample(normal(3, 4), ((0, 1), (2, 0)), value=0.5),
            sample(normal(0, 2), [(1, 0), (0, 1)]),
            sample(integers(3, high=9), [(2, 2)]),
        ),
        (
            bad(ShapeError, "a pair .* for each axis", normal(3, 4), [(1, 1)]),
            bad(ShapeError, "lengths >= 0", normal(3), [(-1, 1)]),
        ),
    ),
)
