"""Stopping between two batches: signals ask, the training loop obeys when its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within it, Ctrl-C and SIGTERM only set ``signal``; a second Ctrl-C interrupts at once.

    ``exit_code`` is what a shell expects of a program that ended so: 130 or 143.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number."""
        return 128 + (self.signal or 0)
