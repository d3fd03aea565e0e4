"""Tables that a person can read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from benchmarks.pairing import CLEAN
from benchmarks.results import Measurement, Series, Spread, geometric_mean

HEAD = (
    f"{'case':<46} {'mode':<16} {'ours':>9} {'theirs':>9}  {'ratio':^18} {'1 thread':^18} {'speed':>13} {'share':>5}  "
    "pairs, their variant"
)
MEMORY_BOUND = 4.0  # operations a byte below which work is told in bytes a second
NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
UNITS = {"bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")), "wall": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))}


def title(measurement: Measurement) -> str:
    """Of the table that a measurement belongs to."""
    peer = measurement.framework
    return f"{measurement.family}, " + (f"beside {NAMES.get(peer, peer)}" if peer else "alone")


def row(measurement: Measurement) -> str:
    """One line of the table."""
    first, single = measurement.series[0], measurement.find("cpu")
    name = measurement.case if len(measurement.case) <= 46 else measurement.case[:45] + "…"
    cells = [f"{name:<46}", f"{measurement.mode:<16}", f"{quantity(first, first.ours):>9}"]
    cells.append(f"{quantity(first, first.theirs):>9} ")
    cells.append(f"{spread(first.ratio):^18}")
    cells.append(f"{spread(single.ratio) if single else '':^18}")
    cells.append(f"{speed(measurement):>13}")
    cells.append(f"{measurement.ceiling / first.ours.median:>5.0%} " if measurement.ceiling else " " * 6)
    cells.append(", ".join(filter(None, (counts(first), measurement.variant))))
    return " ".join(cells).rstrip()


def quantity(series: Series, values: Spread | None) -> str:
    """The median with a unit."""
    if values is None:
        return ""
    scales = UNITS["bytes" if series.quantity == "bytes" else "wall"]
    scale, unit = next((pair for pair in scales if values.median >= pair[0]), scales[-1])
    return f"{values.median / scale:.3g} {unit}"


def spread(ratio: Spread | None) -> str:
    """The median and the quartiles."""
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""


def speed(measurement: Measurement) -> str:
    """GFLOP/s, or GB/s where memory is what limits the work."""
    if measurement.flop is None or measurement.bytes is None:
        return ""
    seconds = measurement.series[0].ours.median
    if measurement.flop / measurement.bytes < MEMORY_BOUND:
        return f"{measurement.bytes / seconds / 1e9:.1f} GB/s"
    return f"{measurement.flop / seconds / 1e9:.1f} GFLOP/s"


def counts(series: Series) -> str:
    """How many pairs count, and how many were taken while the machine was busy."""
    dropped = len(series.pairs) - len(series.kept)
    disturbed = sum(pair.kept and pair.speed < CLEAN for pair in series.pairs)
    text = f"{len(series.kept)}"
    text += f", {dropped} discarded" if dropped else ""
    return text + (f", {disturbed} disturbed" if disturbed else "")


def summary(measurements: Iterable[Measurement]) -> list[str]:
    """Geometric means of the ratios, by family, framework and mode, where there are several."""
    lines = []
    ordered = sorted(measurements, key=lambda m: (m.family, m.framework or "", m.mode))
    for (family, peer, mode), group in itertools.groupby(ordered, key=lambda m: (m.family, m.framework, m.mode)):
        entries = list(group)
        ratios = [m.series[0].ratio for m in entries]
        single = [series.ratio for m in entries if (series := m.find("cpu")) is not None]
        medians = [ratio.median for ratio in ratios if ratio is not None]
        if len(medians) < 2:
            continue
        line = f"{family}, {mode}, beside {NAMES.get(peer or '', peer)}: {geometric_mean(medians):.2f}"
        alone = [ratio.median for ratio in single if ratio is not None]
        lines.append(line + (f"; one thread {geometric_mean(alone):.2f}" if alone else ""))
    return lines
