"""Stage 4: every op of the table on the GPU and on the simulator, from the same numbers.

In a rehearsal the simulator is compared with the CPU.
"""

from __future__ import annotations

import numpy as np
import op_errors

from gpu_check import table
from gpu_check.stage import Rows, Setting
from imgrec_engine.dtypes import float64


def run(setting: Setting, rows: Rows) -> str:
    """A row for each op and dtype: the largest difference, and how many of its results are equal to the last bit."""
    other = "cpu" if setting.rehearsal else "sim"
    same = total = 0
    for case in table.cases(setting):
        for dtype in case.dtypes:
            largest, equal, compared = 0.0, 0, 0
            for sample in case.samples:
                ours = table.results(case, sample, dtype, setting.device)
                theirs = table.results(case, sample, dtype, other)
                largest = max([largest, *map(difference, ours, theirs)])
                equal += sum(a == b for a, b in zip(table.bits(ours), table.bits(theirs), strict=True))
                compared += len(ours)
            # Either may be off by what is allowed against float64.
            allowed = 2 * table.tolerance(case, dtype)
            rows.add(f"{case.name} {dtype.name}", largest <= allowed, difference=largest, equal_bits=equal, of=compared)
            same, total = same + equal, total + compared
    return f"{same} of {total} results equal to the last bit, the others within what is allowed against float64"


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest one as a share of the largest element; infinity where NaN is not at the same places."""
    ours, theirs = ours.astype(float64), theirs.astype(float64)
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return float("inf")
    return op_errors.relative(ours, theirs)
