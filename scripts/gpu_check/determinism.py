"""Stage 6: the same bits at every run: each op of the table, and each family of kernels at a size that fills the GPU."""

from __future__ import annotations

from collections.abc import Callable

from gpu_check import table, workloads
from gpu_check.stage import Rows, Setting
from imgrec_engine.dtypes import bfloat16, float32

REPEATS, REHEARSED_REPEATS = 100, 3


def run(setting: Setting, rows: Rows) -> str:
    """A row for each op, or workload, and dtype."""
    repeats = REHEARSED_REPEATS if setting.rehearsal else REPEATS
    for dtype in (float32, bfloat16):
        for name, work in workloads.WORKLOADS.items():

            def once(work: workloads.Workload = work) -> list[bytes]:
                return [result.numpy().tobytes() for result in work(setting.device, dtype, not setting.rehearsal)]

            rows.add(f"{name} workload, {dtype.name}", **same(once, repeats))
    for case in table.cases(setting):
        sample = table.largest_sample(case)
        for dtype in {float32, bfloat16} & set(case.dtypes):

            def once(case: object = case, sample: object = sample, dtype: object = dtype) -> list[bytes]:
                return table.bits(table.results(case, sample, dtype, setting.device))

            rows.add(f"{case.name} {dtype.name}", **same(once, repeats))
    return f"{rows.count} ops and workloads, {repeats} runs each"


def same(once: Callable[[], list[bytes]], repeats: int) -> dict[str, int | bool]:
    """How many runs differ from the first."""
    first = once()
    different = sum(once() != first for _ in range(repeats - 1))
    return {"held": different == 0, "runs": repeats, "different": different}
