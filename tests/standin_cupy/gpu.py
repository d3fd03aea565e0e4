"""GPUs, their streams and events, and their memory, which is the host's."""

import contextlib
import ctypes
import functools
import threading
import types
import weakref
from time import perf_counter
from typing import ClassVar

import numpy as np

from standin_cupy import graph

GPUS = 2


class _Thread(threading.local):
    def __init__(self):
        self.device = 0
        self.streams = list(_null_streams)
        self.pool = None  # of the allocator in use, where it is not the default one


class Device:
    compute_capability = "90"
    attributes = types.MappingProxyType({"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 99 * 1024})

    def __init__(self, index=None):
        self.id = thread.device if index is None else index
        self._before = []

    def __enter__(self):
        self._before.append(thread.device)
        thread.device = self.id
        return self

    def __exit__(self, *_):
        thread.device = self._before.pop()


class Event:
    def __init__(self, block=False, disable_timing=False):
        self._stream = None
        self.timed = not disable_timing

    def record(self, stream=None):
        self._stream = stream or get_current_stream()
        self.moment, self.done = perf_counter(), False
        self._issued = self._stream.issued
        self._known = {**self._stream.known, self._stream: self._stream.clock}

    def run(self):
        """What had been issued when it was recorded is done now; returns up to where work of which streams is."""
        if self._stream is None:
            raise RuntimeError("an event is waited for that was never recorded")
        self._stream.run(self._issued)
        return self._known

    def synchronize(self):
        _learn(_host, self.run())
        self.done = True


def get_elapsed_time(start, end):
    """In milliseconds, by the clock of the host: operations are done when they are issued."""
    assert start.timed
    assert end.timed
    if not end.done:
        raise RuntimeError("cudaErrorNotReady: the time of an event is asked for that nobody has waited for")
    return 1e3 * (end.moment - start.moment)


class Nvtx:
    """Ranges as NVIDIA's profilers see them: how deep each begins, and its name."""

    ranges: ClassVar = []
    _depth = 0

    @classmethod
    def RangePush(cls, message, id_color=-1):
        cls.ranges.append((cls._depth, message))
        cls._depth += 1

    @classmethod
    def RangePop(cls):
        cls._depth -= 1


class Stream:
    """Knows up to what time it comes after other streams; a time passes with each use that it makes of memory."""

    _made = 0

    def __init__(self, null=False, non_blocking=False):
        Stream._made += not null
        self.ptr = 0 if null else 0x1000 + Stream._made
        self.issued = self._done = self.clock = 0
        self.known = {}
        self.capture = None
        self._waiting = []

    def knows(self, other, time):
        return other is self or max(self.known.get(other, -1), _host.get(other, -1)) >= time

    def issue(self, work):
        self.issued += 1
        self._waiting.append(work)
        if self.ptr == 0:
            self.run(self.issued)

    def run(self, until):
        while self._done < until:
            self._done += 1
            self._waiting.pop(0)()

    def synchronize(self):
        forbid_capture(self)
        self.run(self.issued)
        _learn(_host, {**self.known, self: self.clock})

    def wait_event(self, event):
        _learn(self.known, event.run())

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.capture = graph.Capture()

    def end_capture(self):
        captured, self.capture = self.capture, None
        return captured.finish()

    def is_capturing(self):
        return self.capture is not None

    def __enter__(self):
        self._before = get_current_stream()
        thread.streams[thread.device] = self
        return self

    def __exit__(self, *_):
        thread.streams[thread.device] = self._before


class CUDARuntimeError(RuntimeError):
    pass


def forbid_capture(stream):
    """What waits, or copies from or to the host, cannot be captured."""
    if stream.capture is not None:
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")


def _learn(known, more):
    for stream, time in more.items():
        known[stream] = max(known.get(stream, -1), time)


_host = {}  # up to what time of each stream the host knows that it is done
_null_streams = [Stream(null=True) for _ in range(GPUS)]
thread = _Thread()


def get_current_stream(device_id=-1):
    return thread.streams[thread.device if device_id < 0 else device_id]


class Block:
    """Memory of the pool of a stream, which is the current one when it is taken and gets it back when it dies.

    Whoever uses it must come after all that used it before, and its stream after all of them when it dies.
    """

    faults: ClassVar = []  # what finalizers, which cannot raise, have to tell

    def __init__(self, size):
        pool = thread.pool or get_default_memory_pool()
        self._pool = weakref.ref(pool)
        self._size, self._owner, self._used = 0, get_current_stream(), {}
        pool.take(size)
        self._size = size
        self.use(self._owner)

    @property
    def pool(self):
        """None where it is gone: memory does not keep its pool."""
        return self._pool()

    def use(self, stream):
        if not all(stream.knows(other, time) for other, time in self._used.items()):
            raise RuntimeError("a stream uses memory that another one used before, for which it has not waited")
        stream.clock += 1
        self._used[stream] = stream.clock
        if stream.capture is not None:
            stream.capture.note_use(self)

    def __del__(self):
        if self.pool is not None:
            self.pool.give_back(self._size)
        if self.pool in default_pools and not all(self._owner.knows(other, time) for other, time in self._used.items()):
            self.faults.append("memory goes back to a stream that has not waited for the last use of it")


class UnownedMemory(Block):
    """Memory of another library, whose object it keeps."""

    def __init__(self, source):
        super().__init__(0)
        self._source = source


class OutOfMemoryError(MemoryError):
    pass


class MemoryPool:
    limit = 0

    def __init__(self):
        self._used = 0
        self._lock = threading.RLock()

    def malloc(self, size):
        raise NotImplementedError("only for using_allocator")

    def take(self, size):
        with self._lock:
            if self.limit and self._used + size > self.limit:
                raise OutOfMemoryError(
                    f"Out of memory allocating {size:,} bytes (allocated so far: {self._used:,} bytes)"
                )
            self._used += size

    def give_back(self, size):
        with self._lock:
            self._used -= size

    def set_limit(self, size=None):
        self.limit = size or 0

    def used_bytes(self):
        return self._used

    def free_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


default_pools = [MemoryPool() for _ in range(GPUS)]


def get_default_memory_pool():
    return default_pools[thread.device]


@contextlib.contextmanager
def using_allocator(malloc):
    before, thread.pool = thread.pool, malloc.__self__
    try:
        yield
    finally:
        thread.pool = before


class PinnedMemory(bytearray):
    pass


_copies = []  # from pinned memory, with the time of the stream that makes them


def is_pinned(array):
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return isinstance(array, PinnedMemory)


def note_copy(source, stream):
    """The host has filled pinned memory, so it must know that the copies made of it before are done."""
    for other, copying, time in _copies:
        if _host.get(copying, -1) < time and np.shares_memory(other, source):
            raise RuntimeError("pinned memory was written while a copy of what it held may not be done yet")
    _copies[:] = [copy for copy in _copies if _host.get(copy[1], -1) < copy[2]]
    _copies.append((source, stream, stream.clock))


class MemoryPointer:
    def __init__(self, host, device_id, mem):
        self._host, self.mem = host, mem
        self.ptr = host.__array_interface__["data"][0]
        self.device_id = device_id

    def memset_async(self, value, size):
        stream, work = get_current_stream(), functools.partial(ctypes.memset, self.ptr, value, size)
        stream.capture.works.append(work) if stream.capture is not None else work()
