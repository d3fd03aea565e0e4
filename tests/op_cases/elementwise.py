import numpy as np

from imgrec_engine import functional as F
from op_cases.table import OpCase, normal, sample

CASES = (
    OpCase(F.clone, np.copy, (sample(normal(2, 3)), sample(normal(0)))),
    OpCase(F.cast, lambda x, dtype: x.astype(dtype), (sample(normal(2, 3), np.dtype(np.float64)),), dtypes=()),
)
