"""The compiled modules, one for each device, and which of them serves an array."""

from __future__ import annotations

import importlib
from collections import deque
from types import ModuleType
from typing import Any

import numpy as np

try:
    _cpu: Any = importlib.import_module("imgrec_engine._cpu")
except ImportError as error:
    raise ImportError(
        "imgrec_engine has no compiled module for this Python: install the package "
        "(`pip install .`) instead of importing it from its sources, or build in place with `make dev`"
    ) from error

cpu_context = _cpu.Context(threads=1)

_OF_TYPE: dict[type, tuple[Any, Any]] = {np.ndarray: (_cpu, cpu_context)}


def of(array: Any) -> tuple[Any, Any]:
    """The module with the kernels for this array's device, and the context to call them with.

    An op reads ``module, context = kernels.of(x)`` and then calls ``module.conv2d_forward(context, y, x, ...)``.
    """
    return _OF_TYPE[type(array)]


def workspace(plan: Any, like: Any) -> Any:
    """The scratch memory that a plan asks for, on the device of ``like``; None where it asks for none."""
    _chosen.append(plan.algorithm)
    if plan.workspace_bytes == 0:
        return None
    return of(like)[0].empty((plan.workspace_bytes,), _BYTES)


def take_algorithms() -> list[str]:
    """The algorithms planned since the last call, for IMGREC_DEBUG."""
    chosen = list(dict.fromkeys(_chosen))
    _chosen.clear()
    return chosen


def modules() -> dict[str, ModuleType]:
    """The modules of this build by device name."""
    return {"cpu": _cpu}


_BYTES = np.dtype(np.uint8)
_chosen: deque[str] = deque(maxlen=16)
