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
from benchmarks import cases
from gpu_check.stage import Rows, Setting, Skip
from imgrec_engine import cuda, kernels

REPEATS = 15
QUEUED = 2 << 30  # bytes that are written before each run: the caches are cold, and the host gets ahead of the GPU
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}

Work = Callable[[], Any]
Clock = Callable[[Work], float]


def run(setting: Setting, rows: Rows) -> str:
    """Rows: the ceilings, then times for each case and dtype, forward and with the backward pass."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise Skip("PyTorch is not installed; there is nothing to compare with") from error
    torch.backends.cudnn.allow_tf32 = False  # as ours: float32 is float32
    torch.backends.cudnn.benchmark = True  # cuDNN's best algorithm
    kernels.load(setting.device)
    clock = host_seconds if setting.rehearsal else gpu_clock()
    ceilings = {dtype: measure_ceilings(setting, dtype, clock) for dtype in TOLERANCES}
    for dtype, (bandwidth, rate) in ceilings.items():
        rows.add(f"ceilings, {dtype}", bytes_per_second=bandwidth, flop_per_second=rate)
    chosen = [cases.conv2d(1, 8, 8, 8, 3, 1), cases.layer_norm(16, 32)] if setting.rehearsal else cases.gpu_cases()
    ratios = []
    for case in chosen:
        for dtype in ("bfloat16", "float32"):
            found = compare(case, dtype, setting, torch, clock, ceilings[dtype])
            rows.add(f"{case.family} {case.name}, {dtype}", **found)
            if "ratio" in found:
                ratios.append(found["ratio"])
    if not ratios:
        return "no case could be timed"
    return f"{len(ratios)} cases: PyTorch's time / ours from {min(ratios):.2f} to {max(ratios):.2f} (forward)"


def compare(
    case: cases.Case, dtype: str, setting: Setting, torch: Any, clock: Clock, ceilings: tuple[float, float]
) -> dict[str, Any]:
    """Times of both, once their results agree; bytes and operations are those of the forward pass."""
    place = "cpu" if setting.rehearsal else "cuda"
    ours = [ie.tensor(array, dtype, setting.device, requires_grad=True) for array in case.inputs]
    leaves = [torch.from_numpy(array).to(place, getattr(torch, dtype)).requires_grad_() for array in case.inputs]
    forward = case.theirs(torch)
    y, reference = case.ours(*ours), case.from_theirs(forward(*case.to_theirs(leaves)))
    theirs = reference.detach().float().cpu().numpy()
    error = float(np.abs(y.numpy().astype(np.float32) - theirs).max() / np.abs(theirs).max())
    if not error <= TOLERANCES[dtype]:
        return {"held": False, "error": error, "refused": "our result is not PyTorch's, and is not timed"}

    def our_step() -> None:
        for tensor in ours:
            tensor.grad = None
        case.ours(*ours).backward(dy)

    def their_step() -> None:
        for leaf in leaves:
            leaf.grad = None
        case.from_theirs(forward(*case.to_theirs(leaves))).backward(their_dy)

    def without_gradients(context: Any, work: Work) -> None:
        with context():
            work()

    dy, their_dy = ie.ones(*y.shape, dtype=dtype, device=setting.device), torch.ones_like(reference)
    our_forward = functools.partial(without_gradients, ie.no_grad, lambda: case.ours(*ours))
    their_forward = functools.partial(without_gradients, torch.no_grad, lambda: forward(*case.to_theirs(leaves)))
    moved = y.dtype.itemsize * sum(tensor.size for tensor in (*ours, y))
    floor = max(moved / ceilings[0], case.flops / ceilings[1])
    times = {name: clock(work) for name, work in (("ours", our_forward), ("theirs", their_forward))}
    both = {name: clock(work) for name, work in (("ours", our_step), ("theirs", their_step))}
    return {
        "error": error,
        "seconds": times,
        "ratio": times["theirs"] / times["ours"],
        "bytes": moved,
        "flop": case.flops,
        "floor": floor,
        "share_of_floor": floor / times["ours"],
        "seconds_with_backward": both,
        "ratio_with_backward": both["theirs"] / both["ours"],
    }


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
