"""What was measured, as data and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of some values, one at least."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Pair:
    """One reading of each, taken one after the other, and the machine's speed beside them (1 when nobody else uses it).

    Where there is no other framework, ``theirs`` is None.
    """

    ours: float
    theirs: float | None
    speed: float
    kept: bool = True


@dataclass(frozen=True)
class Series:
    """Pairs of one quantity: "wall" seconds, "cpu" seconds, or "bytes"."""

    quantity: str
    threads: int
    pairs: tuple[Pair, ...]

    @property
    def kept(self) -> list[Pair]:
        """Those that count."""
        return [pair for pair in self.pairs if pair.kept]

    @property
    def ours(self) -> Spread:
        """Ours alone."""
        return Spread.of([pair.ours for pair in self.kept])

    @property
    def theirs(self) -> Spread | None:
        """Theirs alone."""
        values = [pair.theirs for pair in self.kept if pair.theirs is not None]
        return Spread.of(values) if values else None

    @property
    def ratio(self) -> Spread | None:
        """Theirs over ours, pair by pair: above 1 ours needs less."""
        values = [pair.theirs / pair.ours for pair in self.kept if pair.theirs is not None]
        return Spread.of(values) if values else None


@dataclass(frozen=True)
class Measurement:
    """A case in one mode beside one framework, which does it in its fastest ``variant``; alone where there is none.

    ``flop`` and ``bytes`` are None where they were not counted, ``ceiling`` is then None too: the least seconds that
    the work takes on this machine.
    """

    family: str
    case: str
    mode: str
    framework: str | None
    variant: str
    flop: float | None
    bytes: float | None
    ceiling: float | None
    series: tuple[Series, ...]

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        """What it shares with the same measurement of another time."""
        return self.family, self.case, self.mode, self.framework

    def find(self, quantity: str) -> Series | None:
        """The series of a quantity, if it was measured."""
        return next((series for series in self.series if series.quantity == quantity), None)


@dataclass(frozen=True)
class Report:
    """All of a run, and where it ran."""

    machine: dict[str, Any]
    measurements: tuple[Measurement, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """What ``write`` wrote; ValueError for anything else."""
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"{path}: not a report of these benchmarks, or of another version")
        return cls(data["machine"], tuple(_measurement(entry) for entry in data["measurements"]))


def _measurement(entry: dict[str, Any]) -> Measurement:
    series = (Series(s["quantity"], s["threads"], tuple(Pair(**pair) for pair in s["pairs"])) for s in entry["series"])
    return Measurement(**{**entry, "series": tuple(series)})


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))
