import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.conv2d import ACTIVATIONS
from op_cases.table import OpCase, bad, integers, normal, sample


def linear(x, weight, bias=None, activation=None, residual=None):
    y = x @ weight.T
    y = y if bias is None else y + bias
    return ACTIVATIONS[activation](y if residual is None else y + residual)


CASES = (
    OpCase(
        F.matmul,
        np.matmul,
        (
            sample(normal(3, 5), normal(5, 4)),
            sample(normal(40, 300), normal(300, 37)),
            sample(normal(2, 3, 5), normal(5, 4)),
            sample(normal(2, 1, 3, 5), normal(4, 5, 2)),
            sample(normal(5), normal(5)),
            sample(normal(5), normal(2, 5, 3)),
            sample(normal(2, 3, 5), normal(5)),
            sample(normal(3, 0), normal(0, 4)),
            sample(normal(0, 5), normal(5, 4)),
        ),
        (
            bad(ShapeError, r"\(2, 3\) and \(2, 3\) do not fit", normal(2, 3), normal(2, 3)),
            bad(ShapeError, "a dimension at least", normal(), normal(2)),
            bad(DTypeError, "expected floating", integers(2, 2, high=3), normal(2, 2)),
        ),
        reduction=300,
    ),
    OpCase(
        F.linear,
        linear,
        (
            sample(normal(7, 5), normal(3, 5), normal(3)),
            sample(normal(2, 4, 5), normal(3, 5)),
            sample(normal(0, 5), normal(3, 5), normal(3)),
            sample(normal(2, 0), normal(3, 0), normal(3), activation="relu"),
            sample(normal(33, 300), normal(70, 300), normal(70), activation="silu"),
            *(
                sample(normal(2, 3, 5), normal(4, 5), normal(4), activation=name)
                for name in ("relu", "gelu", "silu", "sigmoid", "tanh")
            ),
            sample(normal(7, 5), normal(3, 5), residual=normal(7, 3)),
            sample(normal(2, 4, 5), normal(3, 5), normal(3), residual=normal(2, 4, 3)),
            sample(normal(2, 4, 5), normal(3, 5), normal(3), activation="gelu", residual=normal(2, 4, 3)),
            sample(normal(130, 300), normal(70, 300), activation="tanh", residual=normal(130, 70)),
            sample(normal(2, 0), normal(3, 0), normal(3), residual=normal(2, 3)),
        ),
        (
            bad(ShapeError, r"x is \(7, 4\)", normal(7, 4), normal(3, 5)),
            bad(ValueError, "linear: activation is 'elu'", normal(7, 5), normal(3, 5), activation="elu"),
            bad(ShapeError, r"bias is \(4,\), expected \(3,\)", normal(7, 5), normal(3, 5), normal(4)),
            bad(
                ShapeError,
                r"residual is \(3,\), expected the result's shape \(7, 3\)",
                normal(7, 5),
                normal(3, 5),
                residual=normal(3),
            ),
            bad(
                DTypeError,
                "residual is int64, expected a floating dtype",
                normal(7, 5),
                normal(3, 5),
                residual=integers(7, 3, high=2),
            ),
        ),
        reduction=300,
    ),
)
