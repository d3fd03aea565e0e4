"""Stage 8: our kernels beside PyTorch's, and their share of what the GPU can do at all, measured in the same run.

No kernel can take less than its floor: the longer of the time that its bytes take at the speed of a copy (every input
read and every output written once) and the time that its operations take at that of a large matrix product. In a
rehearsal small cases run on the simulator, for the sake of this code: their times say nothing.
"""

from __future__ import annotations

import functools
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import imgrec_engine as ie
from benchmarks import frameworks
from benchmarks.cases import FAMILIES
from benchmarks.cases.case import BOTH, FORWARD, Case, Program
from gpu_check.stage import Rows, Setting, Skip
from imgrec_engine import cuda, kernels

REPEATS = 15
QUEUED = 2 << 30  # bytes that are written before each run: the caches are cold, and the host gets ahead of the GPU
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
REHEARSED = ("8x8x8", "layer_norm")  # parts of the names of the cases for a rehearsal

Work = Callable[[], Any]
Clock = Callable[[Work], float]


def run(setting: Setting, rows: Rows) -> str:
    """Rows: the ceilings, then times for each case and dtype, forward and with the backward pass."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise Skip("PyTorch is not installed; there is nothing to compare with") from error
    kernels.load(setting.device)
    clock = host_seconds if setting.rehearsal else gpu_clock()
    ceilings = {dtype: measure_ceilings(setting, dtype, clock) for dtype in TOLERANCES}
    for dtype, (bandwidth, rate) in ceilings.items():
        rows.add(f"ceilings, {dtype}", bytes_per_second=bandwidth, flop_per_second=rate)
    small = [case for case in FAMILIES["tiny"] if any(part in case.name for part in REHEARSED)]
    ratios = []
    for case in small if setting.rehearsal else FAMILIES["gpu"]:
        for dtype in ("bfloat16", "float32"):
            found = compare(case, dtype, setting, clock, ceilings[dtype])
            rows.add(f"{case.name}, {dtype}", **found)
            if "ratio" in found:
                ratios.append(found["ratio"])
    if not ratios:
        return "no case could be timed"
    if setting.rehearsal:
        return f"{len(ratios)} small cases agree with PyTorch; times on the simulator say nothing"
    return f"{len(ratios)} cases: PyTorch's time / ours from {min(ratios):.2f} to {max(ratios):.2f} (forward)"


def compare(case: Case, dtype: str, setting: Setting, clock: Clock, ceilings: tuple[float, float]) -> dict[str, Any]:
    """Times of both, once their results agree; bytes and operations are those of the forward pass."""
    programs = {mode: pair(case, mode, dtype, setting) for mode in (FORWARD, BOTH)}
    ours, theirs = (program.results()["output"] for program in programs[FORWARD])
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error <= TOLERANCES[dtype]:
        return {"held": False, "error": error, "refused": "our result is not PyTorch's, and is not timed"}
    once, both = (
        {"ours": clock(functools.partial(_within, mine)), "theirs": clock(functools.partial(_within, other))}
        for mine, other in programs.values()
    )
    work = case.work(FORWARD)
    assert work is not None
    moved = work.bytes * ie.dtypes.as_dtype(dtype).itemsize / 4  # of float32 are what cases count
    floor = max(moved / ceilings[0], work.flop / ceilings[1])
    return {
        "error": error,
        "seconds": once,
        "ratio": once["theirs"] / once["ours"],
        "bytes": moved,
        "flop": work.flop,
        "floor": floor,
        "share_of_floor": floor / once["ours"],
        "seconds_with_backward": both,
        "ratio_with_backward": both["theirs"] / both["ours"],
    }


def pair(case: Case, mode: str, dtype: str, setting: Setting) -> list[Program]:
    """The case made ready for us and for PyTorch, in the first of its variants."""
    both = [frameworks.create(name, setting.device, dtype) for name in ("ours", "torch")]
    return [case.program(one, mode, case.variants(one.name, mode)[0], {}) for one in both]


def _within(program: Program) -> None:
    """One call in the program's context."""
    with program.context():
        program.run()


def measure_ceilings(setting: Setting, dtype: str, clock: Clock) -> tuple[float, float]:
    """Bytes a second of a large copy, read and written, and operations a second of a large matrix product."""
    size, side = (1 << 16, 64) if setting.rehearsal else (1 << 30, 8192)
    source = ie.zeros(size, dtype="uint8", device=setting.device)
    bandwidth = 2 * size / clock(source.clone)
    a, b = (ie.randn(side, side, dtype=dtype, device=setting.device) for _ in range(2))
    return bandwidth, 2 * side**3 / clock(lambda: a @ b)


def host_seconds(work: Work) -> float:
    """The median of some runs."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def gpu_clock() -> Clock:
    """Seconds of the GPU between events: the host's own time shows only where it is longer than the writing before."""
    cupy = cuda.namespace()
    queued = cupy.empty(QUEUED, cupy.uint8)

    def seconds(work: Work) -> float:
        for _ in range(3):
            work()
        events = []
        for _ in range(REPEATS):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            queued.data.memset_async(0, QUEUED)
            start.record()
            work()
            end.record()
            events.append((start, end))
        cupy.cuda.get_current_stream().synchronize()
        return statistics.median(float(cupy.cuda.get_elapsed_time(*pair)) / 1e3 for pair in events)

    return seconds
