"""What a step that is being captured must tell, and what it must not do: `graphs.py` captures, others ask here.

A CUDA graph repeats the launches of one step with the same arguments. What changes from step to step therefore has to
lie in the GPU's memory, and what Python does besides has to be done again by whoever replays the graph.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from imgrec_engine.errors import CaptureError

if TYPE_CHECKING:
    from imgrec_engine.autograd import Version
    from imgrec_engine.deferred import Findings
    from imgrec_engine.tensor import Tensor


class Recording:
    """What a captured step does besides launching kernels."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings  # of checks of values, which lie in memory that is not the graph's
        self.numbers: list[tuple[Any, Callable[[], float]]] = []  # arrays of one number, and where it comes from
        self.guards: list[Callable[[], list[Any]]] = []  # what must be as it was, or the step is captured anew
        self.undo: list[Callable[[], None]] = []  # what to do where the capture fails
        self.versions: list[Version] = []  # of memory that is written to
        self.leaves: dict[int, Tensor] = {}  # that get a gradient
        self.zeroed: set[int] = set()  # those whose former gradient the step itself forgets


class _Here(threading.local):
    recording: Recording | None = None


_here = _Here()


def current() -> Recording | None:
    """The recording of the step that is being captured on this thread, if one is."""
    return _here.recording


@contextlib.contextmanager
def recording(findings: Findings) -> Iterator[Recording]:
    """Within it, this thread captures a step."""
    made = _here.recording = Recording(findings)
    try:
        yield made
    finally:
        _here.recording = None


def refuse(what: str) -> None:
    """CaptureError where a step is being captured."""
    if _here.recording is not None:
        raise CaptureError(f"capture: {what}, which a captured step cannot")


def note_gradient(leaf: Tensor) -> None:
    """A leaf gets a gradient; CaptureError where it has one from before the step, which replays would add to."""
    made = _here.recording
    if made is None or id(leaf) in made.leaves:
        return
    if leaf.grad is not None:
        raise CaptureError(
            f"capture: a tensor of shape {leaf.shape} has a gradient from before the step; "
            "call optimizer.zero_grad() at the step's beginning"
        )
    made.leaves[id(leaf)] = leaf


def note_zeroed(leaf: Tensor) -> None:
    """The gradient of a leaf is forgotten."""
    if _here.recording is not None:
        _here.recording.zeroed.add(id(leaf))


def note_write(version: Version) -> None:
    """Memory is written to."""
    if _here.recording is not None:
        _here.recording.versions.append(version)
