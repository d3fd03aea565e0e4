"""The simulator's own speed: kernels of benchmarks/simulator.cu, built with g++ and run on one thread.

Times are of the processor, the best of some runs. A kernel that takes longer than its limit is a regression: the limits
are twice what a first version of the simulator took, on a machine of two shared cores.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 10


@dataclass(frozen=True)
class SimulatorCase:
    """One kernel: its name in simulator.cu, what it is, the seconds it may take, and its work."""

    name: str
    text: str
    limit: float
    amount: float
    unit: str


CASES = (
    SimulatorCase("empty", "empty launch of 256 threads", 26e-6, 256, "threads"),
    SimulatorCase("sgemm", "SGEMM 256x256x256, tiles of 64x64x16", 26e-3, 2 * 256**3, "FLOP"),
    SimulatorCase("softmax", "softmax (512, 1000), a warp a row", 32e-3, 512 * 1000, "elements"),
    SimulatorCase("mma_gemm", "bfloat16 mma.sync GEMM 256x256x256", 52e-3, 2 * 256**3, "FLOP"),
    SimulatorCase("conv2d", "3x3 convolution (8, 16, 16, 32) -> 64", 162e-3, 2 * 8 * 16**2 * 64 * 9 * 32, "FLOP"),
    SimulatorCase("persistent", "64 persistent steps (16, 128), 4 blocks", 118e-3, 64 * 2 * 16 * 128**2, "FLOP"),
)


def main() -> int:
    """Prints a table, and returns 1 where a kernel takes longer than its limit."""
    slow = False
    with tempfile.TemporaryDirectory() as build:
        words = ["make", "-s", "-f", "csrc/sim/program.mk", "-j2", f"BUILD={build}"]
        words.append("SOURCES=benchmarks/simulator.cu tests/sim/program.cu")
        subprocess.run(words, cwd=ROOT, check=True)
        print(f"{'kernel':<46} {'time':>10} {'limit':>10} {'speed':>20}")
        for case in CASES:
            words = [f"{build}/program", case.name, "1", str(REPEATS)]
            taken = float(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
            slow |= taken > case.limit
            speed = f"{case.amount / taken / 1e6:.0f} M{case.unit}/s"
            print(f"{case.text:<46} {taken * 1e3:>7.3f} ms {case.limit * 1e3:>7.3f} ms {speed:>20}", flush=True)
    return int(slow)
