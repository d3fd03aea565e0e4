import math

import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample

ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def pair(value):
    return (value, value) if isinstance(value, int) else value


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, algorithm=None):
    """One tap at a time, each a matrix product of shifted pixels with that tap's weights."""
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    out_channels, kh, kw, group_in = weight.shape
    if padding == "same":
        total = dh * (kh - 1), dw * (kw - 1)
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in pair(padding)]
    padded = np.pad(x, ((0, 0), *sides, (0, 0)))
    oh = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    ow = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((x.shape[0], oh, ow, out_channels), dtype=x.dtype)
    group_out = out_channels // groups
    for i in range(kh):
        for j in range(kw):
            pixels = padded[:, i * dh :, j * dw :][:, : (oh - 1) * sh + 1 : sh, : (ow - 1) * sw + 1 : sw]
            for g in range(groups):
                out = slice(g * group_out, (g + 1) * group_out)
                y[..., out] += pixels[..., g * group_in : (g + 1) * group_in] @ weight[out, i, j].T
    return ACTIVATIONS[activation](y if bias is None else y + bias)


CASES = (
    OpCase(
        F.conv2d,
        conv2d,
        (
            sample(normal(2, 6, 5, 3), normal(4, 3, 3, 3), normal(4)),
            sample(normal(2, 6, 5, 3), normal(4, 3, 3, 3), normal(4), padding=1),
            sample(normal(1, 6, 7, 18), normal(3, 3, 2, 18), stride=(2, 3), padding=(2, 1), dilation=(2, 1)),
            sample(normal(2, 5, 5, 2), normal(3, 2, 4, 2), normal(3), padding="same"),
            sample(normal(1, 5, 6, 6), normal(9, 3, 3, 2), normal(9), padding=1, groups=3),
            sample(normal(2, 5, 6, 5), normal(5, 3, 3, 1), normal(5), padding=1, groups=5),
            sample(normal(1, 6, 5, 3), normal(6, 3, 3, 1), normal(6), stride=2, padding=2, dilation=2, groups=3),
            sample(normal(1, 4, 13, 32), normal(32, 3, 3, 1), padding=(0, 1), groups=32),
            sample(normal(1, 3, 19, 17), normal(17, 3, 3, 1), normal(17), padding=1, groups=17),
            sample(normal(1, 3, 6, 20), normal(8, 2, 3, 5), normal(8), stride=(1, 2), padding=1, groups=4),
            sample(normal(2, 4, 5, 6), normal(18, 3, 2, 2), padding=2, stride=2, dilation=(2, 3), groups=3),
            sample(normal(2, 4, 4, 20), normal(37, 1, 1, 20), stride=3),
            sample(normal(3, 20, 20, 1), normal(40, 5, 5, 1), normal(40), padding=2, activation="relu"),
            sample(normal(1, 9, 9, 300), normal(34, 3, 3, 300)),
            *(
                sample(normal(1, 4, 4, 3), normal(2, 3, 3, 3), normal(2), padding=1, activation=name)
                for name in ("relu", "gelu", "silu", "sigmoid", "tanh")
            ),
            sample(normal(0, 4, 4, 3), normal(2, 3, 3, 3), normal(2)),
            sample(normal(1, 1, 1, 1), normal(1, 1, 1, 1), algorithm="direct"),
        ),
        (
            bad(ShapeError, r"x is \(4, 4, 3\)", normal(4, 4, 3), normal(2, 3, 3, 3)),
            bad(ShapeError, "weight has 2 input channels, expected 3", normal(1, 4, 4, 3), normal(2, 3, 3, 2)),
            bad(
                ShapeError,
                r"bias is float32 \(3,\), expected \(C_out,\) = \(2,\)",
                normal(1, 4, 4, 3),
                normal(2, 3, 3, 3),
                normal(3),
            ),
            bad(ShapeError, "reaches over 5 positions along the width", normal(1, 9, 4, 1), normal(1, 1, 5, 1)),
            bad(ShapeError, "groups is 2, expected a divisor", normal(1, 4, 4, 3), normal(2, 3, 3, 1), groups=2),
            bad(ShapeError, "stride along the height is 0", normal(1, 4, 4, 1), normal(1, 1, 1, 1), stride=(0, 1)),
            bad(ShapeError, "padding along the width is -1", normal(1, 4, 4, 1), normal(1, 1, 1, 1), padding=(0, -1)),
            bad(ShapeError, "the kernel along the width is 0", normal(1, 4, 4, 1), normal(1, 1, 0, 1)),
            bad(TypeError, "groups is 'all'", normal(1, 4, 4, 1), normal(1, 1, 1, 1), groups="all"),
            bad(TypeError, "dilation is 1.5", normal(1, 4, 4, 1), normal(1, 1, 1, 1), dilation=1.5),
            bad(ValueError, "'valid', expected", normal(1, 4, 4, 1), normal(1, 1, 1, 1), padding="valid"),
            bad(ValueError, "needs stride 1", normal(1, 4, 4, 1), normal(1, 1, 1, 1), stride=2, padding="same"),
            bad(ValueError, "activation is 'elu'", normal(1, 4, 4, 1), normal(1, 1, 1, 1), activation="elu"),
            bad(ValueError, "'direct' or 'winograd'", normal(1, 4, 4, 1), normal(1, 1, 1, 1), algorithm="fft"),
            bad(ValueError, "is 'winograd', which", normal(1, 4, 4, 1), normal(1, 1, 1, 1), algorithm="winograd"),
            bad(DTypeError, "x is int64", integers(1, 4, 4, 1, high=3), integers(1, 1, 1, 1, high=3)),
            bad(DTypeError, "expected one dtype", normal(1, 4, 4, 1), integers(1, 1, 1, 1, high=3)),
        ),
        reduction=2_700,
    ),
)
