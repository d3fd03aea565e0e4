"""Checks of values on a GPU that nobody waits for: what one finds is raised when values are next asked for.

A check writes what it finds to the GPU's memory, and the program goes on. What is wrong does no harm meanwhile: kernels
leave it out or take something else for it. Whoever copies values to the host waits for the GPU anyway, and then looks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgrec_engine import capturing, cuda
from imgrec_engine.dtypes import int64

KINDS = 64  # of checks between two looks
NOTHING = int(np.iinfo(np.int64).min)


class Findings:
    """What checks have found on one stream, or in the replays of one graph: a number for each kind of check."""

    def __init__(self) -> None:
        self._numbers = cuda.empty((KINDS,), int64)
        self._numbers.fill(NOTHING)
        self.kinds: dict[tuple[type[Exception], str], int] = {}

    def note(self, number: Any, error: type[Exception], message: str) -> None:
        """``number``, of one element, is what is wrong, or NOTHING; the message has {} in its place."""
        if len(self.kinds) == KINDS and (error, message) not in self.kinds:
            self.look()
            self.kinds.clear()
        kind = self.kinds.setdefault((error, message), len(self.kinds))
        mine = self._numbers[kind : kind + 1]
        np.maximum(mine, number, out=mine)

    def look(self) -> None:
        """Waits, and raises what was found since the last look."""
        numbers = cuda.to_host(self._numbers)
        for (error, message), kind in self.kinds.items():
            if numbers[kind] != NOTHING:
                self._numbers.fill(NOTHING)
                raise error(f"{message.format(numbers[kind])} (found on the GPU, some calls ago)")


_pending: dict[Any, dict[Any, Findings]] = {}  # by the context of GPU and stream, and by graph; None: by no graph


def note(number: Any, error: type[Exception], message: str) -> None:
    """Keeps what a check on the current GPU has found, as ``Findings.note`` says, until ``look``."""
    recording = capturing.current()
    if recording is not None:
        recording.findings.note(number, error, message)
        return
    found = _pending.setdefault(cuda.of(number)[1], {})
    if None not in found:
        found[None] = Findings()
    found[None].note(number, error, message)


def note_replay(graph: Any, findings: Findings, like: Any) -> None:
    """A graph has been launched on the GPU of ``like``, in which checks have written to its findings."""
    if findings.kinds:
        _pending.setdefault(cuda.of(like)[1], {})[graph] = findings


def look(array: Any) -> None:
    """Raises what checks have found on the current stream of the array's GPU."""
    for findings in _pending.pop(cuda.of(array)[1], {}).values():
        findings.look()


def check_indices(indices: Any, least: int, length: int, message: str) -> None:
    """Notes an IndexError unless indices on a GPU, one at least, lie within ``least`` and ``length`` - 1."""
    lowest, highest = (index.astype(int64) for index in (indices.min(), indices.max()))
    wrong = np.where(lowest < least, lowest, np.where(highest >= length, highest, NOTHING))
    note(wrong, IndexError, message)
