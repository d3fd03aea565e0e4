import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import ShapeError
from op_cases.table import OpCase, bad, normal, sample

SAMPLES = (
    sample(normal(3, 4, 5)),
    sample(normal(3, 4, 5), axis=1),
    sample(normal(3, 4, 5), axis=(0, -1), keepdims=True),
    sample(normal(3, 1), axis=0),
    sample(normal(3, 0), axis=1),
)
REFUSED = (bad(ShapeError, "axis 3 is out of range", normal(2, 3), axis=3),)

CASES = (OpCase(F.sum, np.sum, SAMPLES, REFUSED, reduction=60),)
