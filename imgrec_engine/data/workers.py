"""Threads or processes that make batches ahead of the consumer and end with its iteration."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from imgrec_engine.errors import DataError

Task = Callable[..., Any]

_task: Task | None = None  # what this worker process does; set once when it starts


@contextmanager
def worker_pool(task: Task, num_workers: int, kind: str) -> Iterator[Callable[..., Future[Any]]]:
    """Give a function that has `task` called with its arguments by a worker and returns the future result.

    On leaving, all workers have ended: they finish what was submitted, unless an error or an early end is the reason;
    then what has not begun is cancelled.
    """
    if kind == "thread":
        pool: Executor = ThreadPoolExecutor(num_workers, thread_name_prefix="imgrec-data")
    else:
        pool, task = _process_pool(task, num_workers), _run_in_process
    finished = False
    try:
        yield lambda *arguments: pool.submit(task, *arguments)
        finished = True
    except (BrokenExecutor, BrokenPipeError) as error:
        raise DataError(
            "a worker process ended unexpectedly; each worker imports the script that was started, so a "
            "script with workers='process' must begin its work under `if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=not finished)


def _process_pool(task: Task, num_workers: int) -> Executor:
    # Imported here because most programs never start a process and importing the engine should be quick.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.reduction import ForkingPickler

    try:
        ForkingPickler.dumps(task)
    except Exception as error:  # whatever a user's __getstate__ or __reduce__ raises
        raise DataError(
            f"workers='process' must send the data set and the transform to other processes, but {error}; "
            "use workers='thread'"
        ) from error
    # Never fork: the engine's and the user's threads may hold locks that a forked child could not take.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(num_workers, context, initializer=_start_process, initargs=(task,))


def _start_process(task: Task) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the consumer's to answer; it ends the workers


def _run_in_process(*arguments: Any) -> Any:
    assert _task is not None
    return _task(*arguments)
