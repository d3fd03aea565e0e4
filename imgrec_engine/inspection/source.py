"""The source of a kernel, as far as counts belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgrec_engine.inspection.profile import KernelProfile, LineCounters

# Kernels' sources belong to the checkout; an installed package comes without them.
_CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class SourceLine:
    """One line with what was counted there; ``text`` is None where the source is not at hand."""

    number: int
    text: str | None
    counters: LineCounters | None


@dataclass(frozen=True)
class SourcePart:
    """The functions of one file that a kernel executes, one block of lines for each."""

    file: str
    functions: tuple[tuple[SourceLine, ...], ...]


def notes(module_file: str) -> tuple[str, ...]:
    """What a reader must know where the sources are not those that the module was built from."""
    folder = _CHECKOUT / "csrc" / "cuda"
    if not folder.is_dir():
        return ("An installed package has no kernels' sources; in a checkout they stand beside the counts.",)
    if max(path.stat().st_mtime for path in folder.rglob("*.*")) > Path(module_file).stat().st_mtime:
        return ("Sources have changed since `make checked`: lines may be others than those that were counted.",)
    return ()


def parts(kernel: KernelProfile) -> list[SourcePart]:
    """The kernel itself, then the other functions with counts, file by file: what all kernels are written with last."""
    own_file, own_line = kernel.function
    counted: dict[str, dict[int, LineCounters | None]] = {own_file: {own_line: None}}
    for (file, number), counters in kernel.lines.items():
        counted.setdefault(file, {})[number] = counters
    files = sorted(counted, key=lambda file: (file != own_file, "/arch/" in file, file))
    return [SourcePart(file, tuple(_functions(file, counted[file]))) for file in files]


def _functions(file: str, counted: dict[int, LineCounters | None]) -> Iterator[tuple[SourceLine, ...]]:
    path = _CHECKOUT / file
    lines = path.read_text().splitlines() if file.startswith("csrc/") and path.is_file() else []
    last = 0
    for number in sorted(counted):
        if last < number <= len(lines):
            first, last = _function_around(lines, number)
            yield tuple(SourceLine(n, lines[n - 1], counted.get(n)) for n in range(first, last + 1))
    unknown = tuple(SourceLine(n, None, counted[n]) for n in sorted(counted) if n > len(lines))
    if unknown:
        yield unknown


def _function_around(lines: list[str], number: int) -> tuple[int, int]:
    """The first and last line of the function around a line: in our style both start in the first column."""

    def starts(line: str) -> bool:
        return line[:1].strip() not in ("", "#")  # "#pragma unroll" stands in the first column of any function

    first = last = number
    while first > 1 and not starts(lines[first - 1]):
        first -= 1
    while first > 1 and starts(lines[first - 2]) and not lines[first - 2].startswith("}"):
        first -= 1
    while last < len(lines) and not lines[last - 1].startswith("}"):
        last += 1
    return first, last
