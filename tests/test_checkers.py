"""The simulator's checkers: planted bugs are found, at the right place, and correct kernels are silent."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLANTED = ROOT / "tests/sim/planted"
INSTRUMENTED = [
    "-O2", "-g", "-fno-tree-sra", "-fno-optimize-sibling-calls", "-fsanitize=thread",
    "--param", "tsan-instrument-func-entry-exit=0", "--param", "tsan-distinguish-volatile=1",
]  # fmt: skip

# For each planted bug: the checker that must find it, what its report says, and the thread that is named.
BUGS = {
    "missing_syncthreads": ("race", "race: read of 4 bytes of shared memory, 'tile' + 252 bytes", (0, 0)),
    "missing_second_syncthreads": ("race", "race: write of 4 bytes of shared memory, 'tile'", (0, 63)),
    "missing_syncwarp": ("race", "race: read of 4 bytes of shared memory, 'tile'", (0, 31)),
}
