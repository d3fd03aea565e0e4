"""Measures cases: checks them, finds the peer's fastest variant, takes pairs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.cases.case import Arrays, Case
from benchmarks.checking import WrongResultError, check
from benchmarks.machine import Ceilings
from benchmarks.pairing import CLEAN, take_pairs
from benchmarks.results import Measurement, Pair, Series

READING = 0.03  # seconds of one reading: calls that are shorter are repeated
TRIALS = 3  # of each variant
PATIENCE, LOOK = 5.0, 0.05  # seconds for which a series waits for a quiet machine, and between two looks
NOWHERE = {"results": "", "weights": ""}


class Asked(Protocol):
    """A worker, here or in another process."""

    framework: Any

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer."""


class Machine(Protocol):
    """How fast the machine can be, and is."""

    def flops(self, threads: int) -> float:
        """Operations a second at this moment."""

    def ceilings(self, threads: int) -> Ceilings:
        """The most of them, and of bytes."""


class Refused(Exception):  # noqa: N818
    """A case whose results differ; the message names it."""


class Bench:
    """Our worker, those of the others, and the machine.

    The first series of a measurement is on the clock with all ``threads``, the second one of the processor's time with
    one thread, which other processes disturb least.
    """

    def __init__(
        self, ours: Asked, peers: Mapping[str, Asked], machine: Machine, threads: int, host: bool = True
    ) -> None:
        self.ours = ours
        self.peers = peers
        self.machine = machine
        self.threads = threads
        self.host = host  # whether the work is the processor's, and its ceilings hold

    def measure(self, case: Case, mode: str) -> Iterator[Measurement]:
        """Beside each framework that can do it, or alone where none can; Refused where results differ."""
        able = {name: worker for name, worker in self.peers.items() if case.variants(name, mode)}
        for name, worker in able.items():
            yield self._measure(case, mode, name, worker)
        if not able:
            yield self._measure(case, mode, None, None)

    def _measure(self, case: Case, mode: str, name: str | None, worker: Asked | None) -> Measurement:
        with tempfile.TemporaryDirectory() as folder:
            loading = Loading(case, mode, Path(folder))
            seconds = loading.ours(self.ours, self.threads, export=True)
            variant, label = 0, ""
            if name is not None and worker is not None:
                ways = case.variants(name, mode)
                variant = self._fastest(loading, worker, len(ways))
                label = ways[variant].label
                loading.peer(worker, variant, self.threads, export=True)
                try:
                    check(loading.results("ours"), loading.results("theirs"))
                except WrongResultError as error:
                    raise Refused(f"{case.family} {case.name}, {mode}, beside {name}: {error}") from error
            series = [self._series("wall", self.threads, seconds, worker)]
            if self.threads > 1:
                seconds = loading.ours(self.ours, 1)
                if worker is not None:
                    loading.peer(worker, variant, 1)
            series.append(self._series("cpu", 1, seconds, worker))
        work = case.work(mode)
        flop, moved = (None, None) if work is None else (work.flop, work.bytes)
        ceiling = self.machine.ceilings(self.threads).seconds(work.flop, work.bytes) if work and self.host else None
        return Measurement(case.family, case.name, mode, name, label, flop, moved, ceiling, tuple(series))

    def _fastest(self, loading: Loading, worker: Asked, count: int) -> int:
        """The number of the variant that is fastest in a short trial."""
        if count == 1:
            return 0
        taken = []
        for variant in range(count):
            seconds = loading.peer(worker, variant, self.threads)
            repeats = repeats_of(seconds)
            trials = TRIALS if seconds < READING else 1
            taken.append(min(seconds, *(worker.ask("run", repeats=repeats)["wall"] for _ in range(trials))))
        return int(np.argmin(taken))

    def _series(self, quantity: str, threads: int, seconds: float, worker: Asked | None) -> Series:
        """Pairs on the clock, or of the processor's time."""
        repeats = {self.ours: repeats_of(seconds)}
        if worker is not None:
            repeats[worker] = repeats_of(worker.ask("run", repeats=1)["wall"])
        full = self.machine.ceilings(threads).flops
        until = time.monotonic() + PATIENCE

        def take(ours_first: bool) -> Pair:
            order = list(repeats) if ours_first else list(repeats)[::-1]
            speeds, taken = [self._await_quiet(threads, until)], {}
            for one in order:
                taken[one] = float(one.ask("run", repeats=repeats[one])[quantity])
                speeds.append(self.machine.flops(threads))
            return Pair(taken[self.ours], taken[worker] if worker is not None else None, min(speeds) / full)

        return Series(quantity, threads, take_pairs(take, 2 * max(READING, seconds) * len(repeats)))

    def _await_quiet(self, threads: int, until: float) -> float:
        """The machine's speed, after a wait where others were using it."""
        full = self.machine.ceilings(threads).flops
        while (speed := self.machine.flops(threads)) < CLEAN * full and time.monotonic() < until:
            time.sleep(LOOK)
        return speed


class Loading:
    """Has workers make a case ready, and passes arrays on between them through files."""

    def __init__(self, case: Case, mode: str, folder: Path) -> None:
        self._request = {"family": case.family, "case": case.name, "mode": mode}
        self._folder = folder

    def ours(self, worker: Asked, threads: int, export: bool = False) -> float:
        """The seconds of a call; with ``export``, results and weights are written."""
        paths = {"results": self._path("ours"), "weights": self._path("weights")} if export else NOWHERE
        return float(worker.ask("load", **self._request, variant=0, threads=threads, **paths)["seconds"])

    def peer(self, worker: Asked, variant: int, threads: int, export: bool = False) -> float:
        """The same from our weights; with ``export``, results are written."""
        paths = {"results": self._path("theirs") if export else "", "weights": self._path("weights")}
        return float(worker.ask("load", **self._request, variant=variant, threads=threads, **paths)["seconds"])

    def results(self, of: str) -> Arrays:
        """What a worker wrote."""
        with np.load(self._path(of)) as arrays:
            return dict(arrays)

    def _path(self, name: str) -> str:
        return str(self._folder / f"{name}.npz")


def repeats_of(seconds: float) -> int:
    """How many calls make a reading."""
    return max(1, int(READING / max(seconds, 1e-9)))
