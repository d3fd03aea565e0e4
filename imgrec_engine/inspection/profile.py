"""What the simulator counts, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECTOR_BYTES = 32  # what a GPU's caches fetch at least


@dataclass(frozen=True)
class LineCounters:
    """Counts of one line over all warps. A request is one instruction of a warp, a wavefront one turn of the banks."""

    executions: int = 0
    global_requests: int = 0
    global_sectors: int = 0
    global_minimum_sectors: int = 0
    shared_requests: int = 0
    shared_wavefronts: int = 0
    shared_minimum_wavefronts: int = 0
    barriers: int = 0

    @property
    def sectors_per_request(self) -> float:
        """Sectors of global memory that a request moves; NaN where there is none."""
        return _ratio(self.global_sectors, self.global_requests)

    @property
    def least_sectors_per_request(self) -> float:
        """The sectors that would hold the same bytes."""
        return _ratio(self.global_minimum_sectors, self.global_requests)

    @property
    def sector_factor(self) -> float:
        """How many times more sectors are moved than would do: 1 where accesses are coalesced."""
        return _ratio(self.global_sectors, self.global_minimum_sectors)

    @property
    def bank_factor(self) -> float:
        """How many times longer accesses to shared memory take because banks collide; 1 without conflicts."""
        return _ratio(self.shared_wavefronts, self.shared_minimum_wavefronts)


@dataclass(frozen=True)
class KernelProfile:
    """All launches of one kernel."""

    kernel: str
    function: tuple[str, int]  # the file, from csrc/ on, and the line where its source begins
    launches: int
    blocks: int  # of all launches
    threads_per_block: int
    static_shared_bytes: int
    dynamic_shared_bytes: int
    global_bytes_read: int  # that threads asked for
    global_bytes_written: int
    lines: Mapping[tuple[str, int], LineCounters]  # by file, from csrc/ on, and line

    @classmethod
    def of(cls, counted: Mapping[str, Any]) -> KernelProfile:
        """From what the simulator returns (csrc/sim/check/profile.h)."""
        lines = {
            (line["file"], line["line"]): LineCounters(
                **{name: count for name, count in line.items() if name not in ("file", "line")}
            )
            for line in counted["lines"]
        }
        return cls(**{**counted, "lines": lines})

    @property
    def moved_bytes(self) -> int:
        """What all requests move through the caches: whole sectors."""
        return SECTOR_BYTES * sum(line.global_sectors for line in self.lines.values())


@dataclass(frozen=True)
class Inspection:
    """One call of an op on the simulator."""

    op: str
    inputs: Mapping[str, str]  # name -> "float32 (8, 32)"
    outputs: tuple[str, ...]
    options: Mapping[str, Any]
    minimum_bytes: int  # every input read once, every output written once
    flop: int
    flop_formula: str
    kernels: tuple[KernelProfile, ...]
    notes: tuple[str, ...] = ()  # for the reader

    @property
    def moved_bytes(self) -> int:
        """What all kernels move."""
        return sum(kernel.moved_bytes for kernel in self.kernels)

    @property
    def traffic_factor(self) -> float:
        """Bytes moved for each byte that must be; NaN where nothing must be."""
        return _ratio(self.moved_bytes, self.minimum_bytes)

    @property
    def call(self) -> str:
        """The call as one would write it: conv2d(x=float32 (2, 16, 16, 32), ..., padding=1)."""
        arguments = [f"{name}={what}" for name, what in self.inputs.items()]
        arguments += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{self.op}({', '.join(arguments)}) -> {', '.join(self.outputs)}"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
