"""What needs a fresh process for each reading: the import of a framework, and how much memory training takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.cases import FAMILIES
from benchmarks.cases.case import STEP
from benchmarks.frameworks import MODULES
from benchmarks.machine import Probe
from benchmarks.pairing import keep
from benchmarks.remote import RemoteWorker
from benchmarks.results import Measurement, Pair, Series

IMPORTS = 9
GROWTHS = 3
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def imports(peers: list[str], probe: Probe, threads: int) -> Iterator[Measurement]:
    """Seconds that an import takes, Python's own start left out."""
    alone: list[str | None] = [None]
    for peer in peers or alone:
        name = f"import {MODULES['ours']}" + (f", import {MODULES[peer]}" if peer else "")
        series = _series("wall", threads, IMPORTS, probe, peer, _import)
        yield Measurement("import", name, "import", peer, "", None, None, None, (series,))


def memory(peers: list[str], probe: Probe, threads: int, device: str, wanted: list[str]) -> Iterator[Measurement]:
    """Bytes by which a process grows at its largest in the first steps of training; the others channels-last."""
    alone: list[str | None] = [None]
    for case in FAMILIES["train"]:
        if wanted and not any(part in case.name for part in wanted):
            continue

        def grow(framework: str, case_name: str = case.name) -> float:
            with RemoteWorker(framework, device, threads) as worker:
                request = {"family": "train", "case": case_name, "mode": STEP, "variant": 0, "threads": threads}
                return float(worker.ask("grow", **request)["bytes"])

        able = [peer for peer in peers if case.variants(peer, STEP)]
        for peer in able or alone:
            series = _series("bytes", threads, GROWTHS, probe, peer, grow)
            yield Measurement("memory", case.name, STEP, peer, "", None, None, None, (series,))


def _series(
    quantity: str, threads: int, count: int, probe: Probe, peer: str | None, read: Callable[[str], float]
) -> Series:
    """Readings of both in turn, after one of each that is not kept: files are then in memory."""
    full = probe.ceilings(threads).flops
    names = ["ours"] + ([peer] if peer else [])
    for name in names:
        read(name)
    pairs = []
    for i in range(count):
        speed = probe.flops(threads)
        taken = {name: read(name) for name in (names if i % 2 == 0 else names[::-1])}
        speed = min(speed, probe.flops(threads)) / full
        pairs.append(Pair(taken["ours"], taken[peer] if peer else None, speed))
    return Series(quantity, threads, keep(pairs, count // 2 + 1))


def _import(framework: str) -> float:
    words = [sys.executable, "-c", IMPORT.format(MODULES[framework])]
    return float(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
