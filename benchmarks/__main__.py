"""python -m benchmarks: this library beside others, measured so that the ratios hold (docs/benchmarks.md)."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import cases, compare, frameworks, machine, processes, report, simulator
from benchmarks.measure import Bench, Refused
from benchmarks.remote import RemoteWorker
from benchmarks.results import Measurement, Report

APART = ("import", "memory")  # families that need fresh processes
DEFAULT = (*(family for family in cases.FAMILIES if family not in ("gpu", "tiny")), *APART)


def parse(words: list[str]) -> argparse.Namespace:
    """The options; the program ends where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="This library beside others, in two processes that take turns.",
        epilog="python -m benchmarks compare A.json B.json tells what changed between two reports; "
        "python -m benchmarks simulator times the simulator of GPUs.",
    )
    known = [*cases.FAMILIES, *APART]
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=f"of {', '.join(known)} (default: all for the cpu)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, sim or cuda")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="for both (default: all cores)"
    )
    parser.add_argument(
        "--compare", default=",".join(frameworks.PEERS), help="others, with commas (default: %(default)s)"
    )
    parser.add_argument("--cases", nargs="+", default=[], metavar="PART", help="only those whose names hold a part")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    options = parser.parse_args(words)
    if unknown := set(options.families) - set(known):
        parser.error(f"no family is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.compare = [name for name in options.compare.split(",") if name]
    if unknown := set(options.compare) - set(frameworks.PEERS):
        parser.error(f"cannot compare with {', '.join(sorted(unknown))}, only with {', '.join(frameworks.PEERS)}")
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}, expected 1 or more")
    options.families = options.families or DEFAULT
    return options


def main(words: list[str]) -> int:
    """Prints tables; 1 where results were wrong, 2 where the command was."""
    if words[:1] == ["simulator"]:
        return simulator.main()
    if words[:1] == ["compare"]:
        return compare_reports(words[1:])
    options = parse(words)
    peers = [name for name in options.compare if frameworks.is_installed(name)]
    described = {**machine.describe(), "threads": options.threads, "device": options.device}
    run = Run(options, peers, machine.Probe(), described)
    measurements = run.all()
    for line in report.summary(measurements):
        print(line)
    result = Report(described, tuple(measurements))
    if options.json:
        result.write(options.json)
    if options.plot:
        from benchmarks import plots  # matplotlib is an extra

        plots.draw(result, options.plot)
    for line in run.refused:
        print(f"refused, not timed: {line}", file=sys.stderr)
    return int(bool(run.refused))


class Run:
    """One run of the program."""

    def __init__(self, options: argparse.Namespace, peers: list[str], probe: machine.Probe, described: Any) -> None:
        self.options = options
        self.peers = peers
        self.probe = probe
        self.described = described
        self.refused: list[str] = []

    def all(self) -> list[Measurement]:
        """Measures and prints everything."""
        measurements = []
        table = ""
        for measurement in self._measurements():
            if (title := report.title(measurement)) != table:
                print(f"\n{title}\n{report.HEAD}")
                table = title
            print(report.row(measurement), flush=True)
            measurements.append(measurement)
        return measurements

    def _measurements(self) -> Iterator[Measurement]:
        ceilings = self.probe.ceilings(self.options.threads)
        self.described["ceilings"] = dataclasses.asdict(ceilings)
        print(
            self.described["processor"],
            f"{self.options.threads} threads",
            f"commit {self.described['commit']}",
            sep=", ",
        )
        print(
            f"ceilings: {ceilings.flops / 1e9:.0f} GFLOP/s, copy {ceilings.bandwidth / 1e9:.1f} GB/s (read and written)"
        )
        if families := [family for family in self.options.families if family not in APART]:
            yield from self._beside(families)
        if "import" in self.options.families:
            yield from processes.imports(self.peers, self.probe, self.options.threads)
        if "memory" in self.options.families:
            yield from processes.memory(
                self.peers, self.probe, self.options.threads, self.options.device, self.options.cases
            )

    def _beside(self, families: list[str]) -> Iterator[Measurement]:
        """The families that are measured in workers which stay."""
        options = self.options
        with contextlib.ExitStack() as stack:
            ours, *others = (
                stack.enter_context(RemoteWorker(name, options.device, options.threads))
                for name in ("ours", *self.peers)
            )
            self.described["versions"] = [worker.version for worker in (ours, *others)]
            print(", ".join(self.described["versions"]))
            peers = {worker.framework: worker for worker in others}
            bench = Bench(ours, peers, self.probe, options.threads, host=options.device == "cpu")
            for case in cases.select(families, options.cases):
                for mode in case.modes:
                    try:
                        yield from bench.measure(case, mode)
                    except Refused as refused:
                        self.refused.append(str(refused))


def compare_reports(words: list[str]) -> int:
    """Prints what changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(words)
    try:
        lines = compare.changes(Report.read(options.before), Report.read(options.after))
    except (OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines) if lines else "nothing changed beyond the spread")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
