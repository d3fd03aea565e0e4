"""The machine: what it is, how fast it can be, and how fast it is at this moment."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROBE_SECONDS = 0.002  # long enough to meet a process that has taken a core, short beside what it guards
FIRST_ROUNDS = 100_000
CALIBRATIONS = 40
SHARED = 0.75  # of what so many cores of their own could do: below it threads share the units of a core
PATIENCE = 10.0  # seconds to wait for that to pass: the system below a virtual machine may share cores for a while
COPIED = 256 << 20  # bytes: more than caches hold


@dataclass(frozen=True)
class Ceilings:
    """What no kernel can pass: operations a second, and bytes a second of a copy (read and written)."""

    flops: float
    bandwidth: float

    def seconds(self, flop: float, moved: float) -> float:
        """The least time that so much work takes (the roofline of Williams, Waterman and Patterson, 2009)."""
        return max(flop / self.flops, moved / self.bandwidth)


class Probe:
    """Fused multiply-adds, as fast as the processor can: a short run tells whether others use its cores."""

    def __init__(self) -> None:
        library = _compile(ROOT / "benchmarks" / "probe.cpp")
        self._flops, self._copy = library.probe_flops, library.probe_copy
        self._flops.restype = self._copy.restype = ctypes.c_double
        self._flops.argtypes = [ctypes.c_int, ctypes.c_int64]
        self._copy.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
        a_round = ctypes.c_int.in_dll(library, "probe_flop_a_round").value
        self._rounds = int(PROBE_SECONDS * self._flops(1, FIRST_ROUNDS) / a_round)

    def flops(self, threads: int) -> float:
        """Operations a second at this moment."""
        return float(self._flops(threads, self._rounds))

    @functools.cache  # noqa: B019
    def ceilings(self, threads: int) -> Ceilings:
        """The best of many probes, and of some copies."""
        cores = min(threads, len(os.sched_getaffinity(0)))
        alone = max(self.flops(1) for _ in range(CALIBRATIONS))
        flops, until = 0.0, time.monotonic() + PATIENCE
        while flops < SHARED * cores * alone and time.monotonic() < until:
            flops = max(flops, *(self.flops(threads) for _ in range(CALIBRATIONS)))
        return Ceilings(flops, float(self._copy(threads, COPIED, 5)))


def _compile(source: Path) -> ctypes.CDLL:
    """For this very processor."""
    compiler = os.environ.get("CXX", "g++")
    flags = ["-O3", "-march=native", "-std=c++20", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "probe.so"
        subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def describe() -> dict[str, Any]:
    """The processor, the system, the commit."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _processor() -> str:
    """As the system calls it, with its family and model: some names say little."""
    entries = dict[str, str]()
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    name = entries.get("model name", platform.processor() or "unknown")
    return f"{name} (family {entries.get('cpu family', '?')}, model {entries.get('model', '?')})"


def _git(*words: str) -> str:
    """What git says; nothing where it is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
