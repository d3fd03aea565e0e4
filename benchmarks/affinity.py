"""Each thread of this process on a core of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def spread() -> Iterator[None]:
    """Within it no two busy threads share a core.

    A thread that is woken while other processes use its core may else be put beside the one that woke it, for a whole
    reading: the same framework then takes twice as long. Threads that are started later are free again.
    """
    cores = sorted(os.sched_getaffinity(0))
    threads = sorted(_threads(), key=_used, reverse=True)
    main = os.getpid()
    others = [thread for thread in threads if thread != main]
    places = {main: cores[0]} | {
        thread: (cores[1:] or cores)[i % max(1, len(cores) - 1)] for i, thread in enumerate(others)
    }
    try:
        for thread, core in places.items():
            _place(thread, {core})
        yield
    finally:
        for thread in places:
            _place(thread, set(cores))


def _threads() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]


def _used(thread: int) -> int:
    """The processor's time of a thread so far: those that serve kernels have most of it."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
    except OSError:  # it has ended
        return 0


def _place(thread: int, cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(thread, cores)
