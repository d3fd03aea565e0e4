"""PyTorch, with what makes it fast."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.frameworks.framework import EventClock, HostClock


class PyTorch:
    """On the processor or the GPU; beside our simulated GPU, on the processor."""

    name = "torch"
    module: Any = torch
    functional: Any = torch.nn.functional

    def __init__(self, device: str, dtype: str) -> None:
        self.device = device if device.startswith("cuda") else "cpu"
        self.dtype = getattr(torch, dtype)
        self.version = f"PyTorch {torch.__version__}"
        self.clock: HostClock | EventClock = HostClock()
        if self.device != "cpu":
            torch.backends.cudnn.allow_tf32 = False  # as ours: float32 is float32
            torch.backends.cudnn.benchmark = True  # cuDNN's best algorithm
            self.clock = EventClock(lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b))

    def set_threads(self, count: int) -> None:
        """How many threads serve the kernels."""
        torch.set_num_threads(count)

    def tensor(self, array: NDArray[Any], requires_grad: bool = False) -> Any:
        """A copy in PyTorch's own, better aligned memory; axes keep their order in memory."""
        tensor = torch.from_numpy(np.asarray(array)).clone()
        tensor = tensor.to(self.device, self.dtype if array.dtype.kind == "f" else None)
        return tensor.requires_grad_(requires_grad)

    def numpy(self, tensor: Any) -> NDArray[Any]:
        """The values, bfloat16 as float32."""
        return np.asarray(tensor.detach().float().cpu().numpy())

    def no_grad(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing is recorded in it."""
        context: contextlib.AbstractContextManager[Any] = torch.no_grad()
        return context

    def place(self, model: Any) -> Any:
        """The model on the device, in the dtype."""
        return model.to(self.device, self.dtype)

    def release_memory(self) -> None:
        """None on the processor: it leaves that to the heap."""

    def adamw(self, parameters: Any, lr: float) -> Any:
        """The fused one: the others take several times as long."""
        return torch.optim.AdamW(parameters, lr=lr, fused=True)
