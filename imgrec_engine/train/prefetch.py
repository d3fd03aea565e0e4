"""Batches on their way to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from imgrec_engine import cuda, kernels
from imgrec_engine import device as devices
from imgrec_engine.tensor import Tensor

Batch = tuple[Tensor, ...]


def prefetch(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """Yields the batches on a device.

    To a GPU the next batch is copied, from pinned memory and on a stream of its own, while whoever asked for this one
    computes with it.

    >>> import imgrec_engine as ie
    >>> [images.shape for images, labels in prefetch([(ie.zeros((2, 8, 8, 1)), ie.zeros(2, dtype="int64"))], "cpu")]
    [(2, 8, 8, 1)]
    """
    name = devices.check(device)
    if name in kernels.HOST_TYPES:
        yield from (tuple(tensor.to(name) for tensor in batch) for batch in batches)
        return
    uploads = _Uploads(cuda.index_of(name))
    try:
        ready = False
        for batch in batches:
            uploads.start(batch)
            if ready:
                yield uploads.take()
            ready = True
        if ready:
            yield uploads.take()
    finally:
        uploads.settle()


class _Upload:
    """One batch: its copy on the GPU, the pinned memory that it is copied from, and the event at the copy's end."""

    def __init__(self) -> None:
        self.pinned: list[Any] = []
        self.arrays: list[Any] = []
        self.done: Any = None


class _Uploads:
    """Copies to one GPU, two at a time."""

    def __init__(self, index: int) -> None:
        self._index = index
        with cuda.on(index):
            self._stream = cuda.namespace().cuda.Stream(non_blocking=True)
        self._spare = [_Upload(), _Upload()]
        self._pending: list[_Upload] = []

    def start(self, batch: Batch) -> None:
        """Begins to copy a batch."""
        upload = self._spare.pop(0)
        if upload.done is not None:
            upload.done.synchronize()  # until then its pinned memory is read
        host = [np.ascontiguousarray(devices.to_numpy(tensor._array)).reshape(tensor.shape) for tensor in batch]
        upload.pinned = [self._pin(array, i, upload.pinned) for i, array in enumerate(host)]
        with cuda.on(self._index):
            current = cuda.namespace().cuda.get_current_stream()
            # Memory of the current stream, which may still use it for what it held before.
            upload.arrays = [cuda.empty(array.shape, array.dtype) for array in host]
            self._stream.wait_event(current.record())
            for target, source, array in zip(upload.arrays, upload.pinned, host, strict=True):
                view = np.ndarray(array.shape, array.dtype, source)
                np.copyto(view, array)
                target.set(view, stream=self._stream)
            upload.done = self._stream.record()
        self._pending.append(upload)

    def _pin(self, array: Any, position: int, before: list[Any]) -> Any:
        """Pinned memory for an array: what served the one at this position before, where it is large enough."""
        if position < len(before) and memoryview(before[position]).nbytes >= array.nbytes:
            return before[position]
        return cuda.namespace().cuda.alloc_pinned_memory(max(array.nbytes, 1))

    def take(self) -> Batch:
        """The oldest batch whose copy was begun; the current stream waits for it."""
        upload = self._pending.pop(0)
        with cuda.on(self._index):
            cuda.namespace().cuda.get_current_stream().wait_event(upload.done)
        arrays, upload.arrays = upload.arrays, []
        self._spare.append(upload)
        return tuple(map(Tensor, arrays))

    def settle(self) -> None:
        """Makes the current stream, to which the memory goes back, wait for copies that nobody took."""
        while self._pending:
            self.take()
