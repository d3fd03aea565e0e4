"""python -m benchmarks [FAMILY ...]: our kernels beside PyTorch's, in one process, in turn, on one thread each.

The results of both are compared before anything is timed. The ratio is the median over the pairs of PyTorch's time
divided by ours: above 1 we are faster. "forward + backward" is `.backward()` with gradients for all inputs.

python -m benchmarks simulator: how fast the simulator runs CUDA kernels; PyTorch has no part in it.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import imgrec_engine as ie
from benchmarks import simulator
from benchmarks.cases import Case, cases
from imgrec_engine import info

PAIRS = 9


def main() -> int:
    """Prints a table, and returns 1 if PyTorch is missing or a result is wrong."""
    parser = argparse.ArgumentParser(description="Our kernels beside PyTorch's.")
    parser.add_argument("families", nargs="*", help="conv2d, lstm, attention, norm, pool2d, loss (default: all)")
    options = parser.parse_args()
    if options.families == ["simulator"]:
        return simulator.main()
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        print("benchmarks: PyTorch is not installed; there is nothing to compare with", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    ie.set_num_threads(1)
    print(f"float32, one thread, {info.target()}, PyTorch {torch.__version__}; ratio = PyTorch's time / ours")
    print(f"{'case':<44} {'forward':>22} {'forward + backward':>24}")
    for case in cases():
        if not options.families or case.family in options.families:
            forward, both = measure(case, torch)
            print(f"{case.family + ' ' + case.name:<44} {forward:>22} {both:>24}", flush=True)
    return 0


def measure(case: Case, torch: Any) -> tuple[str, str]:
    """Ratio and our speed, forward and with the backward pass."""
    ours = [ie.tensor(array, requires_grad=True) for array in case.inputs]
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in case.inputs]
    theirs, forward = case.to_theirs(leaves), case.theirs(torch)
    output, reference = case.ours(*ours), case.from_theirs(forward(*theirs))
    check(case, output.numpy(), reference.detach().numpy())
    weights = np.random.Generator(np.random.Philox(6)).standard_normal(output.shape).astype(np.float32)
    our_weights, their_weights = ie.tensor(weights), torch.from_numpy(weights)
    output.backward(our_weights)
    reference.backward(their_weights)
    for mine, leaf in zip(ours, leaves, strict=True):
        check(case, mine.grad.numpy() if mine.grad is not None else 0, leaf.grad.numpy())

    def our_forward() -> None:
        with ie.no_grad():
            case.ours(*ours)

    def their_forward() -> None:
        with torch.no_grad():
            forward(*theirs)

    def our_step() -> None:
        for tensor in ours:
            tensor.grad = None
        case.ours(*ours).backward(our_weights)

    def their_step() -> None:
        for leaf in leaves:
            leaf.grad = None
        case.from_theirs(forward(*case.to_theirs(leaves))).backward(their_weights)

    once = compare(our_forward, their_forward, case.flops)
    return once, compare(our_step, their_step, case.flops * case.with_backward)


def check(case: Case, ours: Any, theirs: Any) -> None:
    """Refuses to time wrong answers."""
    scale = max(1.0, float(np.abs(theirs).max()))
    if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale):
        raise SystemExit(f"benchmarks: {case.family} {case.name}: our result is not PyTorch's; not timed")


def compare(ours: Callable[[], None], theirs: Callable[[], None], flops: float) -> str:
    """Both in turn; the median of the ratios, and our best speed."""
    ours()
    theirs()
    repeats = max(1, int(0.02 / seconds(ours, 1)))
    pairs = [(seconds(ours, repeats), seconds(theirs, repeats)) for _ in range(PAIRS)]
    ratio = statistics.median(their / our for our, their in pairs)
    return f"{ratio:5.2f} {flops / min(our for our, _ in pairs) / 1e9:7.1f} GFLOP/s"


def seconds(work: Callable[[], None], repeats: int) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    sys.exit(main())
