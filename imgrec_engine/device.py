"""Devices: where arrays live, where their memory comes from, how they move, and how many threads serve them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import cuda, deferred, kernels
from imgrec_engine.errors import DeviceError

MOST_THREADS = 1024  # more serve no machine, and a system may refuse to start them
_NOTHING: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


def names() -> tuple[str, ...]:
    """The devices that this build has on this machine, GPUs beyond the first one left out.

    >>> names()[0]
    'cpu'
    """
    return tuple(name for name in kernels.KINDS if _is_present(name))


def _is_present(device: str) -> bool:
    try:
        kernels.load(device)
    except DeviceError:
        return False
    return True


def is_name(text: Any) -> bool:
    """Whether it is a name of a device, present or not, and not of a dtype."""
    return isinstance(text, str) and text.partition(":")[0] in kernels.KINDS


def check(device: str) -> str:
    """The device's name, as ``of`` gives it, if it is present; DeviceError, which says what to do, otherwise."""
    kernels.load(device)
    return device if device in kernels.HOST_TYPES else cuda.name_of(cuda.index_of(device))


def of(array: Any) -> str:
    """The name of the device that holds an array."""
    return kernels.HOST_DEVICES.get(type(array)) or cuda.device_of(array)


def on(array: Any) -> contextlib.AbstractContextManager[Any]:
    """Makes the GPU that holds the array, where one does, the current one."""
    return cuda.elsewhere(array) or _NOTHING


def elsewhere(array: Any) -> contextlib.AbstractContextManager[Any] | None:
    """The same where it makes a difference: where the array is on a GPU that is not the current one."""
    return None if isinstance(array, np.ndarray) else cuda.elsewhere(array)


def to_numpy(array: Any) -> NDArray[Any]:
    """The array's values on the host: the array itself, or a plain view of it, where it lives there already."""
    if isinstance(array, np.ndarray):
        return np.asarray(array)
    values = cuda.to_host(array)
    deferred.look(array)
    return values


def place(array: Any, array_type: type) -> Any:
    """The array as one of the device whose arrays are of this type; of the current GPU where that is cuda.

    NumPy computes with any host device's arrays, and now and then gives a plain array or a number for them.
    """
    if type(array) is array_type:
        return array
    return np.asarray(array).view(array_type) if issubclass(array_type, np.ndarray) else cuda.place(array)


def beside(array: Any, like: Any) -> Any:
    """The array where that of ``like`` can be used with it: itself, or a copy from or to a GPU."""
    if isinstance(array, np.ndarray) and isinstance(like, np.ndarray):
        return array
    return array if of(array) == of(like) else to_device(array, of(like))


def as_array(source: Any) -> Any:
    """Numbers, nested lists and whatever NumPy takes as its array; what is on a GPU, CuPy's or not, as CuPy's."""
    if not isinstance(source, np.ndarray) and hasattr(source, "__cuda_array_interface__"):
        kernels.load("cuda")
        return cuda.share(source)
    return np.asarray(source)


def is_writable(array: Any) -> bool:
    """False where an array is read-only, or on a GPU where several elements share one place."""
    return array.flags.writeable if isinstance(array, np.ndarray) else not cuda.repeats(array)


def has_own_memory(array: Any) -> bool:
    """Whether the memory was made for an array that is no view: by a pool or NumPy, not by another library."""
    if isinstance(array, np.ndarray):
        return bool(array.flags.owndata) or kernels.pool_owns(array.base)
    return cuda.has_own_memory(array)


def write(target: Any, source: Any) -> None:
    """Overwrites an array with one of any device, broadcast and converted; ValueError where the shapes do not fit."""
    if isinstance(target, np.ndarray):
        np.copyto(target, to_numpy(source), casting="unsafe")
    else:
        cuda.write(target, source)


def empty(shape: Sequence[int], dtype: np.dtype[Any], like: Any) -> Any:
    """An uninitialised, contiguous, 64-byte-aligned array from the pool of the device that holds ``like``."""
    return kernels.EMPTY[type(like)](shape, dtype)


def empty_on(device: str, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """The same from the pool of the device of this name."""
    kernels.load(device)
    array_type = kernels.HOST_TYPES.get(device)
    if array_type is not None:
        return kernels.EMPTY[array_type](shape, dtype)
    with cuda.on(cuda.index_of(device)):
        return cuda.empty(shape, dtype)


def empty_like(array: Any) -> Any:
    """An uninitialised, contiguous array of the same shape, dtype and device."""
    return kernels.EMPTY[type(array)](array.shape, array.dtype)


def zeros(shape: Sequence[int], dtype: np.dtype[Any], like: Any) -> Any:
    """Like ``empty``, filled with zeros."""
    array = empty(shape, dtype, like)
    array.fill(0)
    return array


def fill(array: Any, value: float) -> None:
    """Overwrites every element with a number."""
    if gpu := elsewhere(array):
        with gpu:
            array.fill(value)
    else:
        array.fill(value)


def contiguous(array: Any) -> Any:
    """The array itself if it is row-major without gaps, else a copy that is."""
    if array.flags.c_contiguous:
        return array
    copy = empty_like(array)
    np.copyto(copy, array)
    return copy


def to_device(array: Any, device: str) -> Any:
    """Copies an array into memory of the device's pool."""
    copy = empty_on(device, array.shape, array.dtype)
    write(copy, array)
    return copy


def set_num_threads(count: int) -> None:
    """Sets how many threads of the host the kernels use. Results do not depend on it, bit for bit."""
    if not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
        raise ValueError(f"set_num_threads: count is {count!r}, expected a whole number from 1 to {MOST_THREADS}")
    kernels.set_threads(count)


def get_num_threads() -> int:
    """How many threads of the host the kernels use.

    ``IMGREC_NUM_THREADS``, else the cores that this process may run on.
    """
    return kernels.get_threads()


def set_float32_matmul_precision(precision: str) -> None:
    """Sets how exactly GPUs multiply float32 numbers; the name and meaning are PyTorch's.

    "highest", the default, computes in float32. "high" lets tensor cores multiply, which is many times as fast: factors
    are rounded to tf32 (10 bits of fraction), sums stay float32. The device "cpu" computes in float32 always.

    Raises:
        ValueError: another word.

    >>> set_float32_matmul_precision("high")
    >>> get_float32_matmul_precision()
    'high'
    >>> set_float32_matmul_precision("highest")

    """
    if precision not in ("highest", "high"):
        raise ValueError(f"set_float32_matmul_precision: precision is {precision!r}, expected 'highest' or 'high'")
    kernels.allow_tf32(precision == "high")


def get_float32_matmul_precision() -> str:
    """How exactly GPUs multiply float32 numbers: "highest" or "high"."""
    return "high" if kernels.is_tf32_allowed() else "highest"


def _default_threads() -> int:
    wanted = os.environ.get("IMGREC_NUM_THREADS", "")
    if wanted and not (wanted.isdigit() and int(wanted) > 0):
        raise ValueError(f"IMGREC_NUM_THREADS is {wanted!r}, expected a whole number of 1 or more")
    if wanted:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


set_num_threads(_default_threads())
