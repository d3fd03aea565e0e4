"""The largest size of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_growth(work: Callable[[], None]) -> int:
    """By how many bytes the resident memory grows at its largest during ``work``.

    What the heap holds for reuse goes first: imports leave tens of MB there, which would serve ``work`` unseen.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    before = _bytes("VmRSS")
    work()
    return _bytes("VmHWM") - before


def _bytes(entry: str) -> int:
    found = re.search(rf"^{entry}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
