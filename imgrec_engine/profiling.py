"""Where time goes: `ie.profile()` measures each operation, forward and backward, and the optimisers' steps.

On `cpu` and `sim` by the clock of the host, which waits for every kernel; on `cuda` by events on the stream of the
operation, which are read at the end, so that measuring makes nothing wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec_engine import cuda, kernels, observe
from imgrec_engine import device as devices
from imgrec_engine.debug import describe_arguments

GROUPINGS = ("op", "shape", "kernel")
LONGEST_SHAPES = 80  # characters of a call's arguments that are kept
HOST, GPUS = 0, 1  # the groups of lines in a trace


@contextlib.contextmanager
def profile() -> Iterator[Profile]:
    """Measures the operations of all threads that run within it; gives a ``Profile``, complete when it ends.

    On `cuda` each operation is also an NVTX range, which NVIDIA's own profilers show.

    >>> import imgrec_engine as ie
    >>> x = ie.ones((64, 64), requires_grad=True)
    >>> with ie.profile() as p:
    ...     (x @ x).sum().backward()
    >>> sorted((row.name, row.phase, row.calls) for row in p.rows())
    [('matmul', 'backward', 1), ('matmul', 'forward', 1), ('sum', 'backward', 1), ('sum', 'forward', 1)]
    """
    measured = Profile()
    observer = measured._measure
    observe.add(observer)
    try:
        yield measured
    finally:
        observe.remove(observer)
        measured._finish()


@dataclass
class _Span:
    """When a call ran: by the host's clock, and on `cuda` by that of the GPU, all in seconds."""

    name: str
    phase: str
    device: str
    shapes: str
    kernels: str
    thread: int
    start: float
    end: float
    events: tuple[Any, Any] | None = None  # on `cuda`, until they are read
    gpu: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """The time that counts: the GPU's, where one computed."""
        start, end = self.gpu or (self.start, self.end)
        return end - start


@dataclass(frozen=True)
class Row:
    """The calls of one kind together."""

    name: str
    phase: str  # "forward", "backward", "optimizer" or "graph"
    detail: str  # what the rows are told apart by besides name and phase: shapes or kernels
    calls: int
    total_ms: float
    share: float  # of the time of all calls, from 0 to 1

    @property
    def mean_ms(self) -> float:
        """The time of one call."""
        return self.total_ms / self.calls


class Profile:
    """What ``profile()`` has measured: ``print`` shows it, ``rows`` gives it as numbers."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._anchors: dict[str, tuple[float, Any]] = {}  # of each GPU: one moment by the host's clock, and as an event
        self._start = time.perf_counter()
        self.wall_ms = 0.0  # from the beginning to the end, with all that is no operation

    @contextlib.contextmanager
    def _measure(self, call: observe.Call) -> Iterator[None]:
        array = _first_array([*call.args, *call.kwargs.values()])
        device = "cpu" if array is None else devices.of(array)
        on_gpu = array is not None and cuda.is_array(array)
        marked = cuda.marked(f"{call.name} {call.phase}") if on_gpu else contextlib.nullcontext()
        if on_gpu and device not in self._anchors:
            self._anchors[device] = _anchor()
        with marked:
            before = cuda.record_event() if on_gpu else None
            start = time.perf_counter()
            yield
            end = time.perf_counter()
            events = (before, cuda.record_event()) if on_gpu else None
        shapes, chosen = describe_arguments(call.given, call.kwargs), "/".join(filter(None, call.algorithms))
        if len(shapes) > LONGEST_SHAPES:
            shapes = f"{shapes[:LONGEST_SHAPES]}..."
        who = threading.get_native_id()
        self._spans.append(_Span(call.name, call.phase, device, shapes, chosen, who, start, end, events))

    def _finish(self) -> None:
        """Reads the GPUs' events."""
        for span in self._spans:
            if span.events is not None:
                moment, anchor = self._anchors[span.device]
                start, end = (moment + cuda.milliseconds(anchor, event) / 1e3 for event in span.events)
                span.gpu, span.events = (start, end), None
        self.wall_ms = 1e3 * (time.perf_counter() - self._start)

    def rows(self, by: str = "op") -> list[Row]:
        """The calls summed up, those that took longest first.

        Forward and backward are always apart. ``by`` is "op", "shape" (also apart by arguments) or "kernel" (also
        apart by the algorithms that the operation's plans have chosen, where it has any).
        """
        if by not in GROUPINGS:
            raise ValueError(f"profile: by is {by!r}, expected one of {', '.join(map(repr, GROUPINGS))}")
        groups: dict[tuple[str, str, str], list[float]] = {}
        for span in self._spans:
            detail = {"op": "", "shape": span.shapes, "kernel": span.kernels}[by]
            groups.setdefault((span.name, span.phase, detail), []).append(1e3 * span.seconds)
        total = sum(map(sum, groups.values())) or 1.0
        rows = [Row(*key, len(times), sum(times), sum(times) / total) for key, times in groups.items()]
        return sorted(rows, key=lambda row: -row.total_ms)

    def table(self, by: str = "op") -> str:
        """The rows as text, and how much of the whole time they make up."""
        rows = self.rows(by)
        head = ("op", "phase", *(() if by == "op" else (by,)), "calls", "total ms", "mean ms", "share")
        lines = [
            (
                row.name,
                row.phase,
                *(() if by == "op" else (row.detail,)),
                str(row.calls),
                f"{row.total_ms:.3f}",
                f"{row.mean_ms:.4f}",
                f"{row.share:.1%}",
            )
            for row in rows
        ]
        total = sum(row.total_ms for row in rows)
        return f"{_aligned([head, *lines], left=len(head) - 4)}\n{total:.3f} ms in these, {self.wall_ms:.3f} ms in all"

    def __str__(self) -> str:
        return self.table()

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes when each call ran as a JSON file that Perfetto (ui.perfetto.dev) and chrome://tracing show.

        A line for each thread of the host, and one for each GPU.
        """
        threads = {(HOST, span.thread): f"thread {span.thread}" for span in self._spans}
        gpus = {(GPUS, cuda.index_of(name)): name for name in self._anchors}
        events = [_label("process_name", process, 0, name) for process, name in ((HOST, "host"), (GPUS, "GPUs"))]
        events += [_label("thread_name", *line, name) for line, name in {**threads, **gpus}.items()]
        for span in self._spans:
            events.append(self._event(span, HOST, span.thread, span.start, span.end))
            if span.gpu is not None:
                events.append(self._event(span, GPUS, cuda.index_of(span.device), *span.gpu))
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), "utf-8")

    def _event(self, span: _Span, process: int, line: int, start: float, end: float) -> dict[str, Any]:
        """A complete event of Chrome's trace format, in microseconds."""
        return {
            "name": span.name,
            "cat": span.phase,
            "ph": "X",
            "ts": 1e6 * (start - self._start),
            "dur": 1e6 * (end - start),
            "pid": process,
            "tid": line,
            "args": {"arguments": span.shapes, "kernels": span.kernels, "device": span.device},
        }


def _anchor() -> tuple[float, Any]:
    """The present by the host's clock, and as an event of the current GPU."""
    event = cuda.record_event()
    event.synchronize()
    return time.perf_counter(), event


def _first_array(values: Iterable[Any]) -> Any:
    """An array among the arguments of an operation, also within lists; None where there is none."""
    for value in values:
        if isinstance(value, kernels.ARRAYS):
            return value
        if isinstance(value, (list, tuple)) and (found := _first_array(value)) is not None:
            return found
    return None


def _label(what: str, process: int, line: int, name: str) -> dict[str, Any]:
    """An event of Chrome's trace format that names a line or a group of them."""
    return {"name": what, "ph": "M", "pid": process, "tid": line, "args": {"name": name}}


def _aligned(lines: list[tuple[str, ...]], left: int) -> str:
    """Columns of equal width, the first ones aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
