"""Stage 6: the same bits at every run, of each op of the table and of each family of kernels at sizes of training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpu_check import table, workloads
from gpu_check.stage import Rows, Setting
from imgrec_engine.dtypes import bfloat16, float32

REPEATS, REHEARSED_REPEATS = 100, 3


def run(setting: Setting, rows: Rows) -> str:
    """A row for each op, or workload, and dtype."""
    repeats = REHEARSED_REPEATS if setting.rehearsal else REPEATS
    filling = not setting.rehearsal
    for dtype in (float32, bfloat16):
        for name, work in workloads.WORKLOADS.items():
            once = functools.partial(workload_bits, work, setting.device, dtype, filling)
            add(rows, f"{name} workload, {dtype.name}", once, repeats)
    for case in table.cases(setting):
        sample = table.largest_sample(case)
        for dtype in (float32, bfloat16):
            if dtype in case.dtypes:
                once = functools.partial(op_bits, case, sample, dtype, setting.device)
                add(rows, f"{case.name} {dtype.name}", once, repeats)
    return f"{rows.count} ops and workloads, {repeats} runs each"


def workload_bits(work: workloads.Workload, device: str, dtype: Any, filling: bool) -> list[bytes]:
    """Of its outputs and gradients."""
    return table.bits([result.numpy() for result in work(device, dtype, filling)])


def op_bits(case: Any, sample: Any, dtype: Any, device: str) -> list[bytes]:
    """Of its outputs and gradients."""
    return table.bits(table.results(case, sample, dtype, device))


def add(rows: Rows, name: str, once: Callable[[], list[bytes]], repeats: int) -> None:
    """A row that says how many runs differ from the first."""
    first = once()
    different = sum(once() != first for _ in range(repeats - 1))
    rows.add(name, held=different == 0, runs=repeats, different=different)
