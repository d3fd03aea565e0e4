"""The compiled modules, one for each device, and which of them serves an array."""

from __future__ import annotations

import functools
import importlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from imgrec_engine import cuda, simulator
from imgrec_engine.errors import DeviceError
from imgrec_engine.simulator import SimArray

try:
    _cpu: Any = importlib.import_module("imgrec_engine._cpu")
except ImportError as error:
    raise ImportError(
        "imgrec_engine has no compiled module for this Python: install the package "
        "(`pip install .`) instead of importing it from its sources, or build in place with `make dev`"
    ) from error

# A device is known by the type of its arrays: that is all that a call has to look at. CuPy's join these tables when a
# process first asks for `cuda`; they know their GPU.
HOST_TYPES = MappingProxyType[str, type]({"cpu": np.ndarray, "sim": SimArray})
HOST_DEVICES = MappingProxyType({array_type: name for name, array_type in HOST_TYPES.items()})
KINDS = (*HOST_TYPES, "cuda")

ARRAYS: Any = (np.ndarray,)  # the types that arrays are instances of
EMPTY: dict[type, Callable[[Sequence[int], np.dtype[Any]], Any]] = {np.ndarray: _cpu.empty}  # an array of this type
pool_owns: Callable[[Any], bool] = _cpu.pool_owns  # whether memory of the host is the pool's, by its array's base
owner_of: Callable[[Any], Any] = _cpu.owner_of  # the array at the end of a chain of views
# Around every operation: csrc/bindings/tensors.cpp.
tensor_taker, new_tensor, serve_tensors = _cpu.tensor_taker, _cpu.new_tensor, _cpu.serve_tensors
_OF_TYPE: dict[type, tuple[Any, Any]] = {np.ndarray: (_cpu, _cpu.Context(threads=1))}
_loading = threading.Lock()


def of(array: Any) -> tuple[Any, Any]:
    """The module with the kernels for this array's device, and the context to call them with.

    An op reads ``module, context = kernels.of(x)`` and then calls ``module.conv2d_forward(context, y, x, ...)``.
    """
    return _OF_TYPE.get(type(array)) or cuda.of(array)


def load(device: str) -> tuple[Any, Any]:
    """The module and the context of a device, imported at its first use; DeviceError where this build lacks it."""
    global ARRAYS
    array_type = HOST_TYPES.get(device)
    if array_type is None:
        if device.partition(":")[0] != "cuda":
            raise DeviceError(f"device {device!r} is not available; this version has {', '.join(KINDS)}")
        module, context = cuda.load(cuda.index_of(device))
        ARRAYS = (np.ndarray, cuda.array_type())
        EMPTY[cuda.array_type()] = cuda.empty
        return module, context
    if array_type not in _OF_TYPE:
        with _loading:
            if array_type not in _OF_TYPE:
                module, context = simulator.load(get_threads(), is_tf32_allowed())
                EMPTY[array_type] = lambda shape, dtype: module.empty(shape, dtype).view(array_type)
                _OF_TYPE[array_type] = module, context
    return _OF_TYPE[array_type]


def _change_contexts(**changes: Any) -> None:
    """Puts other contexts in the place of the host devices': a context never changes, so plans can be kept by it."""
    with _loading:
        for array_type, (module, context) in tuple(_OF_TYPE.items()):
            settings = {name: getattr(context, name) for name in _SETTINGS}
            _OF_TYPE[array_type] = module, module.Context(**{**settings, **changes})


def set_threads(count: int) -> None:
    """Sets how many threads the kernels of every device use on the host."""
    _change_contexts(threads=count)


def get_threads() -> int:
    """How many threads the kernels use on the host."""
    return int(_OF_TYPE[np.ndarray][1].threads)


def allow_tf32(allowed: bool) -> None:
    """Sets whether float32 products of every device may round their factors to tf32."""
    _change_contexts(allow_tf32=allowed)
    cuda.allow_tf32(allowed)


def is_tf32_allowed() -> bool:
    """Whether float32 products may round their factors to tf32."""
    return bool(_OF_TYPE[np.ndarray][1].allow_tf32)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation needs besides its arguments: csrc/ops/array.h says more."""

    algorithm: str
    workspace_bytes: int
    reserve_bytes: int
    packed_bytes: int


_PLAN_FIELDS = tuple(field.name for field in fields(Plan))


def new_plan(make: Callable[..., Any], *description: Any) -> Plan:
    """What one of the bindings' functions ``<op>_plan`` gives for a context, shapes and a dtype."""
    made = make(*description)
    return Plan(*[getattr(made, field) for field in _PLAN_FIELDS])


plan = functools.lru_cache(maxsize=4096)(new_plan)  # the same one for the same description


def workspace(plan: Any, like: Any) -> Any:
    """The scratch memory that a plan asks for, on the device of ``like``; None where it asks for none."""
    _chosen.append(plan.algorithm)
    if plan.workspace_bytes == 0:
        return None
    return EMPTY[type(like)]((plan.workspace_bytes,), _BYTES)


def take_algorithms() -> list[str]:
    """The algorithms planned since the last call, for those who watch."""
    chosen = list(dict.fromkeys(_chosen))
    _chosen.clear()
    return chosen


_BYTES = np.dtype(np.uint8)
_SETTINGS = ("threads", "sm_count", "max_shared_bytes", "allow_tf32")
_chosen: deque[str] = deque(maxlen=16)
