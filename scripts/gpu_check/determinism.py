"""Stage 6: the same bits at every run, of each op of the table and of each family of kernels at sizes of training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_check import table, workloads
from gpu_check.stage import Rows, Setting
from imgrec_engine.dtypes import bfloat16, float32

REPEATS, REHEARSED_REPEATS = 100, 3


def run(setting: Setting, rows: Rows) -> str:
    """A row for each op, or workload, and dtype."""
    repeats = REHEARSED_REPEATS if setting.rehearsal else REPEATS
    for dtype in (float32, bfloat16):
        for name, work in workloads.WORKLOADS.items():
            once = functools.partial(arrays, work, setting.device, dtype, not setting.rehearsal)
            add(rows, f"{name} workload, {dtype.name}", once, repeats)
    for case in table.cases(setting):
        once = functools.partial(table.results, case, table.largest_sample(case), float32, setting.device)
        add(rows, case.name, once, repeats)
    return f"{rows.count} ops and workloads, {repeats} runs each"


def arrays(work: workloads.Workload, device: str, dtype: Any, large: bool) -> list[Any]:
    """What it gives, where it lies: copies to the host would take most of the time."""
    return [result.detach()._array for result in work(device, dtype, large)]


def add(rows: Rows, name: str, once: Callable[[], list[Any]], repeats: int) -> None:
    """A row that says how many runs differ from the first."""
    first = once()
    different = 0
    for _ in range(repeats - 1):
        different += not all(itertools.starmap(same_bits, zip(first, once(), strict=True)))
    rows.add(name, held=different == 0, runs=repeats, different=different)


def same_bits(a: Any, b: Any) -> bool:
    """Of NumPy's arrays or CuPy's."""
    x, y = (array.reshape(-1).view(np.uint8) for array in (a, b))
    return bool((x == y).all())
