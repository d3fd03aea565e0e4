"""One framework in a process of its own, which waits on a pipe for what to do: python -m benchmarks.worker NAME DEVICE.

A request is a line of JSON on the standard input, and so is the answer on the standard output. Between requests the
process is blocked and its threads sleep: it answers only when they have stopped spinning.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import cases, frameworks
from benchmarks.affinity import spread
from benchmarks.cases.case import Arrays, Program
from benchmarks.frameworks.framework import Reading
from benchmarks.memory import peak_growth

WARM_CALLS = 3
STEPS = 6  # the second and later ones of a training hold the optimiser's state as well
QUIET = 0.05  # of a core: what a process that waits may still use
LOOK = 0.012  # seconds: Linux counts the time of another core's threads at its ticks only, up to 10 ms apart
LONGEST_PARK = 2.0  # seconds; after them the threads spin for good


class Worker:
    """Answers requests with a framework."""

    def __init__(self, framework: Any) -> None:
        self.framework = framework
        self.program: Program | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what a request says."""
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "hello": self.hello,
            "load": self.load,
            "run": self.run,
            "grow": self.grow,
        }
        return actions[request.pop("do")](**request)

    def hello(self) -> dict[str, Any]:
        """Who answers."""
        return {"version": self.framework.version}

    def load(
        self, family: str, case: str, mode: str, variant: int, threads: int, weights: str, results: str
    ) -> dict[str, Any]:
        """Makes a case ready and times a call; writes results where there is a path for them.

        Weights are written there by us and read by the others.
        """
        self.program = None
        gc.collect()
        self.framework.set_threads(threads)
        chosen = cases.find(family, case)
        way = chosen.variants(self.framework.name, mode)[variant]
        given = dict(np.load(weights)) if weights and self.framework.name != "ours" else {}
        self.program = chosen.program(self.framework, mode, way, given)
        if weights and self.framework.name == "ours":
            write(weights, self.program.weights())
        if results:
            write(results, self.program.results())
        with self.program.context():
            for _ in range(WARM_CALLS):
                self.framework.clock.read(self.program.run, 1)
        return {"seconds": self.read(1).wall}

    def run(self, repeats: int) -> dict[str, Any]:
        """Times so many calls in a row; short ones after one that is not timed, which brings the caches back."""
        reading = self.read(repeats)
        park()
        return dataclasses.asdict(reading)

    def read(self, repeats: int) -> Reading:
        """The reading alone."""
        assert self.program is not None
        with self.program.context(), spread():
            if repeats > 1:
                self.program.run()
            reading: Reading = self.framework.clock.read(self.program.run, repeats)
        return reading

    def grow(self, family: str, case: str, mode: str, variant: int, threads: int) -> dict[str, Any]:
        """How many bytes the process grows by at its largest while it makes a case ready and runs it some times."""
        self.framework.set_threads(threads)

        def work(family: str, name: str) -> None:
            chosen = cases.find(family, name)
            way = chosen.variants(self.framework.name, mode)[variant]
            program = chosen.program(self.framework, mode, way, {})
            for _ in range(STEPS):
                program.run()

        for tiny in cases.FAMILIES["tiny"]:  # what is loaded once does not count
            if mode in tiny.modes:
                work("tiny", tiny.name)
        gc.collect()
        self.framework.release_memory()
        return {"bytes": peak_growth(lambda: work(family, case))}


def write(path: str, arrays: Arrays) -> None:
    """Leaves arrays in a file for another process."""
    values: dict[str, Any] = dict(arrays)
    np.savez(path, **values)


def park() -> None:
    """Waits until the process uses no processor: pools of threads look for more work for a while."""
    end = time.monotonic() + LONGEST_PARK
    while time.monotonic() < end:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(LOOK)
        if time.process_time() - cpu < QUIET * (time.perf_counter() - wall):
            return


def main() -> int:
    """Answers until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    _, name, device = sys.argv
    worker = Worker(frameworks.create(name, device))
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
