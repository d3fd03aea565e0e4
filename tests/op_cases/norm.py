import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.conv2d import ACTIVATIONS
from op_cases.table import OpCase, bad, integers, normal, sample, uniform


def batch_norm(x, weight, bias, training, eps=1e-5, activation=None):
    """The op with running statistics of its own, which have no gradient; tests/test_norm.py looks at them."""
    mean, var = (ie.tensor(np.linspace(*ends, x.shape[-1]), device=x.device) for ends in ((-1, 1), (0.5, 2)))
    return F.batch_norm(x, mean, var, weight, bias, training, eps=eps, activation=activation)


def reference_batch_norm(x, weight, bias, training, eps=1e-5, activation=None):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes) if training else np.linspace(-1, 1, x.shape[-1])
    var = x.var(axes) if training else np.linspace(0.5, 2, x.shape[-1])
    y = (x - mean) / np.sqrt(var + eps)
    return ACTIVATIONS[activation](y if weight is None else y * weight + bias)


def layer_norm(x, weight=None, bias=None, eps=1e-5, activation=None):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return ACTIVATIONS[activation](y if bias is None else y + bias)


FOLLOWING = ("relu", "gelu", "silu", "sigmoid", "tanh")
CASES = (
    OpCase(
        batch_norm,
        reference_batch_norm,
        (
            sample(normal(5, 3), normal(3), normal(3), True),
            sample(normal(2, 3, 4, 5), normal(5), normal(5), True, eps=0.1),
            sample(normal(4, 2, 3), None, None, True),
            sample(normal(3, 2, 5), normal(5), normal(5), False),
            sample(normal(3, 1), None, None, False),
            sample(normal(0, 3), normal(3), normal(3), False),
            sample(normal(3, 7, 300, 70), normal(70), normal(70), True),
            sample(normal(40, 600), normal(600), normal(600), True),
            sample(normal(3, 1, 4), None, None, True, activation="relu"),
            *(sample(normal(6, 5), normal(5), normal(5), True, activation=name) for name in FOLLOWING),
            *(sample(normal(5, 3), normal(3), normal(3), False, activation=name) for name in FOLLOWING),
        ),
        (
            bad(
                ShapeError,
                r"weight is float32 \(4,\), expected \(columns,\) = \(3,\)",
                normal(5, 3),
                normal(4),
                normal(3),
                True,
            ),
            bad(ShapeError, r"x has 1 value\(s\) a channel", normal(1, 3), normal(3), normal(3), True),
            bad(DTypeError, "x is int64", integers(5, 3, high=4), None, None, True),
            bad(ValueError, "activation is 'elu'", normal(4, 4), None, None, True, activation="elu"),
        ),
        reduction=8,
    ),
    OpCase(
        F.layer_norm,
        layer_norm,
        (
            sample(normal(4, 7), normal(7), normal(7)),
            sample(normal(2, 3, 5)),
            sample(uniform(3, 6), weight=normal(6), eps=0.1),
            sample(normal(2, 1), bias=normal(1)),
            sample(normal(5), normal(5), normal(5)),
            sample(normal(0, 5), normal(5), normal(5)),
            sample(normal(3, 50, 130), normal(130), normal(130)),
            sample(normal(3, 20_000), normal(20_000), normal(20_000)),
            sample(normal(3, 6), activation="relu"),
            *(sample(normal(4, 9), normal(9), normal(9), activation=name) for name in FOLLOWING),
        ),
        (
            bad(
                ShapeError, r"bias is float32 \(2, 3\), expected \(columns,\) = \(3,\)", normal(2, 3), bias=normal(2, 3)
            ),
            bad(ShapeError, "no dimensions", normal()),
            bad(DTypeError, "x is int64", integers(5, 3, high=4)),
            bad(ValueError, "activation is 'elu'", normal(4, 4), activation="elu"),
        ),
        reduction=8,
    ),
)
