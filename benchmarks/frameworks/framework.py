"""What frameworks have in common: how their work is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """Seconds of one call: on the clock, and of the processor for all threads together."""

    wall: float
    cpu: float


class HostClock:
    """Work that is done when the call returns."""

    def read(self, run: Callable[[], Any], repeats: int) -> Reading:
        """The mean of so many calls in a row."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            run()
        return Reading((time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats)


class EventClock:
    """Work that a GPU does later: the time between two events of its stream."""

    def __init__(self, event: Callable[[], Any], milliseconds: Callable[[Any, Any], float]) -> None:
        self._event = event
        self._milliseconds = milliseconds

    def read(self, run: Callable[[], Any], repeats: int) -> Reading:
        """The mean of so many calls in a row; the processor's time is that of launching them."""
        start, end = self._event(), self._event()
        cpu = time.process_time()
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        cpu = time.process_time() - cpu
        end.synchronize()
        return Reading(self._milliseconds(start, end) / 1e3 / repeats, cpu / repeats)
