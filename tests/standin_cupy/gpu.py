"""GPUs, their streams and events, and their memory, which is the host's."""

import ctypes
import threading
import types

import numpy as np

GPUS = 2


class _Thread(threading.local):
    def __init__(self):
        self.device = 0
        self.streams = [Stream.null] * GPUS


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
        self._recorded = None

    def record(self, stream=None):
        stream = stream or get_current_stream()
        self._recorded = stream, stream.issued

    def synchronize(self):
        if self._recorded is None:
            raise RuntimeError("an event is waited for that was never recorded")
        stream, issued = self._recorded
        stream.run(issued)


class Stream:
    null = None
    _made = 0

    def __init__(self, null=False, non_blocking=False):
        Stream._made += not null
        self.ptr = 0 if null else 0x1000 + Stream._made
        self.issued = self._done = 0
        self._waiting = []

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
        self.run(self.issued)

    def wait_event(self, event):
        event.synchronize()

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self):
        self._before = get_current_stream()
        thread.streams[thread.device] = self
        return self

    def __exit__(self, *_):
        thread.streams[thread.device] = self._before


Stream.null = Stream(null=True)
thread = _Thread()


def get_current_stream(device_id=-1):
    return thread.streams[thread.device if device_id < 0 else device_id]


class OutOfMemoryError(MemoryError):
    pass


class MemoryPool:
    limit = 0

    def __init__(self):
        self._used = 0
        self._lock = threading.RLock()

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


_pools = [MemoryPool() for _ in range(GPUS)]


def get_default_memory_pool():
    return _pools[thread.device]


class PinnedMemory(bytearray):
    pass


def is_pinned(array):
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return isinstance(array, PinnedMemory)


class MemoryPointer:
    def __init__(self, host, device_id):
        self._host = host
        self.ptr = host.__array_interface__["data"][0]
        self.device_id = device_id

    def memset_async(self, value, size):
        ctypes.memset(self.ptr, value, size)
