import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, distinct, integers, normal, sample


def pair(value):
    return (value, value) if isinstance(value, int) else value


def windows(x, kernel_size, stride, padding, fill):
    """(N, OH, OW, C, KH, KW): every window as a view of the padded images."""
    (ph, pw), (sh, sw) = pair(padding), pair(kernel_size if stride is None else stride)
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, pair(kernel_size), axis=(1, 2))[:, ::sh, ::sw]


def max_pool2d(x, kernel_size, stride=None, padding=0):
    return windows(x, kernel_size, stride, padding, -np.inf).max(axis=(-1, -2))


def avg_pool2d(x, kernel_size, stride=None, padding=0):
    return windows(x, kernel_size, stride, padding, 0.0).mean(axis=(-1, -2))


def adaptive_avg_pool2d(x, output_size):
    def spans(length, count):
        return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]

    rows, columns = (spans(n, o) for n, o in zip(x.shape[1:3], pair(output_size), strict=True))
    return np.stack([np.stack([x[:, a:b, c:d].mean(axis=(1, 2)) for c, d in columns], axis=1) for a, b in rows], axis=1)


def samples(draw):
    return (
        sample(draw(2, 4, 6, 3), 2),
        sample(draw(1, 7, 6, 4), 3, 2, 1),
        sample(draw(1, 7, 8, 2), (3, 2), stride=(2, 3), padding=(1, 0)),
        sample(draw(1, 5, 5, 5), 3, stride=1, padding=1),
        sample(draw(1, 5, 5, 1), (1, 2), stride=3),
        sample(draw(0, 4, 4, 3), 2),
        sample(draw(2, 4, 4, 0), 2),
        sample(normal(3, 20, 17, 300), 3, 2, 1),
    )


REFUSED = (
    bad(ShapeError, r"x is float32 \(4, 4, 3\), expected \(N, H, W, C\)", normal(4, 4, 3), 2),
    bad(ShapeError, r"kernel_size \(5, 5\) is greater than x", normal(1, 4, 4, 3), 5),
    bad(ShapeError, r"padding is \(2, 2\), expected 0 to half", normal(1, 4, 4, 3), 3, padding=2),
    bad(ShapeError, r"stride is \(0, 1\), expected 1 or more", normal(1, 4, 4, 3), 3, stride=(0, 1)),
    bad(ShapeError, r"kernel_size is \(0, 0\)", normal(1, 4, 4, 3), 0),
    bad(TypeError, "kernel_size is 1.5, expected a whole number", normal(1, 4, 4, 3), 1.5),
    bad(DTypeError, "x is int64", integers(1, 4, 4, 3, high=9), 2),
)

CASES = (
    OpCase(
        F.max_pool2d,
        max_pool2d,
        (*samples(distinct), sample(distinct(1, 18, 18, 1), 17, 1)),  # 289 positions: more than uint8 can tell apart
        REFUSED,
    ),
    OpCase(F.avg_pool2d, avg_pool2d, samples(normal), REFUSED, reduction=9),
    OpCase(
        F.adaptive_avg_pool2d,
        adaptive_avg_pool2d,
        (
            sample(normal(2, 5, 7, 3), 1),
            sample(normal(2, 5, 7, 3), (2, 3)),
            sample(normal(1, 2, 3, 4), (3, 5)),
            sample(normal(0, 2, 3, 4), 2),
            sample(normal(2, 24, 20, 300), (5, 1)),
        ),
        (
            bad(ShapeError, r"x is \(5, 7\), expected \(N, H, W, C\)", normal(5, 7), 1),
            bad(ShapeError, r"x is float32 \(1, 0, 7, 2\), expected one pixel", normal(1, 0, 7, 2), 1),
            bad(ShapeError, "output_size is 0", normal(1, 5, 7, 2), 0),
            bad(TypeError, r"output_size is \(1, 2, 3\)", normal(1, 5, 7, 2), (1, 2, 3)),
            bad(DTypeError, "x is int64", integers(1, 4, 4, 3, high=9), 2),
        ),
        reduction=100,
    ),
)
