"""An inspection for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from imgrec_engine.inspection.profile import Inspection, KernelProfile, LineCounters
from imgrec_engine.inspection.source import SourceLine, parts

COLUMNS = (
    ("line", 5),
    ("executions", 11),
    ("requests", 9),
    ("sectors/req", 12),
    ("ideal", 7),
    ("banks", 7),
    ("barriers", 9),
)


def as_text(inspection: Inspection) -> str:
    """The summary, then each kernel's source with its counts."""
    return "\n".join(_lines(inspection)) + "\n"


def summary(inspection: Inspection) -> list[tuple[str, str]]:
    """What the op moves and computes, as pairs of a name and a value."""
    return [
        ("bytes moved", f"{count(inspection.moved_bytes)} of global memory, in sectors of 32 bytes"),
        ("minimum", f"{count(inspection.minimum_bytes)}: each input read once, each output written once"),
        ("moved / minimum", factor(inspection.traffic_factor)),
        ("FLOP", f"{count(inspection.flop)} = {inspection.flop_formula}"),
    ]


def kernel_summary(kernel: KernelProfile) -> list[tuple[str, str]]:
    """How a kernel was launched, as pairs of a name and a value."""
    times = "" if kernel.launches == 1 else f" in {count(kernel.launches)} launches"
    return [
        ("blocks", f"{count(kernel.blocks)}{times}, of {count(kernel.threads_per_block)} threads"),
        (
            "shared memory",
            f"{count(kernel.static_shared_bytes)} bytes static, {count(kernel.dynamic_shared_bytes)} dynamic, a block",
        ),
        (
            "asked for",
            f"{count(kernel.global_bytes_read)} bytes read, {count(kernel.global_bytes_written)} written; "
            f"{count(kernel.moved_bytes)} moved",
        ),
    ]


def name_of(kernel: KernelProfile) -> str:
    """The kernel's name without the parentheses and namespace that its launch needs."""
    return kernel.kernel.removeprefix("(").removesuffix(")").removeprefix("cuda::")


def cells(counters: LineCounters) -> list[str]:
    """The counts of a line, one for each column after the first; empty where nothing of the kind happens."""
    return [
        count(counters.executions) if counters.executions else "",
        count(counters.global_requests) if counters.global_requests else "",
        number(counters.sectors_per_request),
        number(counters.least_sectors_per_request),
        factor(counters.bank_factor),
        count(counters.barriers) if counters.barriers else "",
    ]


def count(value: int) -> str:
    """A number with its thousands apart."""
    return f"{value:,}".replace(",", " ")


def number(value: float) -> str:
    """Empty for NaN."""
    return "" if math.isnan(value) else f"{value:.1f}"


def factor(value: float) -> str:
    """Empty for NaN."""
    return "" if math.isnan(value) else f"{value:.2f}x"


def _lines(inspection: Inspection) -> Iterator[str]:
    yield f"{inspection.call} on sim"
    yield from inspection.notes
    yield from (f"  {name:<16} {value}" for name, value in summary(inspection))
    for kernel in inspection.kernels:
        yield ""
        yield f"kernel {name_of(kernel)}"
        yield from (f"  {name:<16} {value}" for name, value in kernel_summary(kernel))
        for part in parts(kernel):
            yield ""
            yield part.file
            yield "".join(f"{name:>{width}}" for name, width in COLUMNS)
            for place, function in enumerate(part.functions):
                if place:
                    yield f"{':':>5}"
                yield from map(_source_line, function)


def _source_line(line: SourceLine) -> str:
    values = [str(line.number), *(cells(line.counters) if line.counters else [""] * (len(COLUMNS) - 1))]
    counts = "".join(f"{value:>{width}}" for value, (_, width) in zip(values, COLUMNS, strict=True))
    return f"{counts}  {line.text or ''}".rstrip()
