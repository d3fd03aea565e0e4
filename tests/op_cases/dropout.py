import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError
from op_cases.table import OpCase, bad, integers, normal, sample

SEED = 7


def dropout(x, p=0.5, training=True):
    """Element i is kept where the top 24 bits of word i mod 4 of counter i // 4 reach p."""
    if not training or p == 0:
        return x
    ie.manual_seed(SEED)
    keep = ie.rand(x.shape).numpy() >= np.float32(p)
    return np.where(keep, x / (1 - p) if p < 1 else 0.0, 0.0)


CASES = (
    OpCase(
        F.dropout,
        dropout,
        (
            sample(normal(30, 5)),
            sample(normal(7), 0.25),
            sample(normal(7), 0),
            sample(normal(7), 1),
            sample(normal(7), training=False),
            sample(normal(0, 3)),
            sample(normal(70_001), 0.1),
        ),
        (
            bad(ValueError, "p is 1.5, expected a probability", normal(3), 1.5),
            bad(DTypeError, "x is int64", integers(3, high=3)),
        ),
        before=lambda: ie.manual_seed(SEED),
    ),
)
