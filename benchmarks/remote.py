"""The other end of a worker's pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

from benchmarks.machine import ROOT

THREADS = ("IMGREC_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerError(RuntimeError):
    """A worker could not do what it was asked for."""


class RemoteWorker:
    """A process with one framework. It does nothing between two requests."""

    def __init__(self, framework: str, device: str, threads: int) -> None:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": paths}
        self.framework = framework
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", framework, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.version: str = self.ask("hello")["version"]

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": what, **details}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process with {self.framework} ended with code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.framework}: {reply['error']}")
        return reply

    def __enter__(self) -> RemoteWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes the pipe, at which it ends
