"""Ours: imgrec_engine."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

import imgrec_engine as ie
from benchmarks.frameworks.framework import EventClock, HostClock
from imgrec_engine import cuda, info, kernels


class Ours:
    """On any of its devices; floating arrays become tensors of ``dtype``."""

    name = "ours"
    module: Any = ie
    functional: Any = ie.functional

    def __init__(self, device: str, dtype: str) -> None:
        kernels.load(device)
        self.device = device
        self.dtype = dtype
        self.version = f"imgrec_engine {ie.__version__} ({info.target()})"
        self.clock: HostClock | EventClock = HostClock()
        if device.startswith("cuda"):
            events = cuda.namespace().cuda
            self.clock = EventClock(events.Event, events.get_elapsed_time)

    def set_threads(self, count: int) -> None:
        """How many threads serve the kernels."""
        ie.set_num_threads(count)

    def tensor(self, array: NDArray[Any], requires_grad: bool = False) -> ie.Tensor:
        """A copy on the device."""
        dtype = self.dtype if array.dtype.kind == "f" else None
        return ie.tensor(array, dtype, self.device, requires_grad)

    def numpy(self, tensor: ie.Tensor) -> NDArray[Any]:
        """The values, bfloat16 as float32."""
        return np.asarray(tensor.detach().numpy(), np.float32)

    def no_grad(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing is recorded in it."""
        return ie.no_grad()

    def place(self, model: Any) -> Any:
        """The model on the device, in the dtype."""
        return model.to(self.device, self.dtype)

    def release_memory(self) -> None:
        """The pool's."""
        kernels.load(self.device)[0].pool_trim()

    def adamw(self, parameters: Any, lr: float) -> Any:
        """There is one."""
        return ie.optim.AdamW(parameters, lr=lr)
