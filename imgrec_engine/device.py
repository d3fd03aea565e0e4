"""Devices: where arrays live, where their memory comes from, and how many threads serve them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import kernels
from imgrec_engine.errors import DeviceError

MOST_THREADS = 1024  # more serve no machine, and a system may refuse to start them
KINDS = ("cpu", "cuda", "sim")  # a build has some of them


def names() -> tuple[str, ...]:
    """The devices that this build has.

    >>> names()[0]
    'cpu'
    """
    return tuple(name for name in kernels.ARRAY_TYPES if _is_present(name))


def _is_present(device: str) -> bool:
    try:
        kernels.load(device)
    except DeviceError:
        return False
    return True


def check(device: str) -> str:
    """Returns the device's name if this build has it; DeviceError, which says what to do, otherwise."""
    kernels.load(device)
    return device


def of(array: Any) -> str:
    """The name of the device that holds an array."""
    return kernels.DEVICES[type(array)]


def to_numpy(array: Any) -> NDArray[Any]:
    """The array's values on the host: the array itself, or a plain view of it, where it lives there already."""
    return np.asarray(array)


def place(array: Any, array_type: type) -> Any:
    """The array as one of the device whose arrays are of this type.

    NumPy computes with any device's arrays on the host, and now and then gives a plain array or a number for them.
    """
    return array if type(array) is array_type else np.asarray(array).view(array_type)


def empty(shape: Sequence[int], dtype: np.dtype[Any], like: Any) -> Any:
    """An uninitialised, contiguous, 64-byte-aligned array from the pool of the device that holds ``like``."""
    return kernels.EMPTY[type(like)](shape, dtype)


def empty_on(device: str, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """The same from the pool of the device of this name."""
    return kernels.EMPTY[kernels.ARRAY_TYPES[check(device)]](shape, dtype)


def empty_like(array: Any) -> Any:
    """An uninitialised, contiguous array of the same shape, dtype and device."""
    return kernels.EMPTY[type(array)](array.shape, array.dtype)


def zeros(shape: Sequence[int], dtype: np.dtype[Any], like: Any) -> Any:
    """Like ``empty``, filled with zeros."""
    array = empty(shape, dtype, like)
    array.fill(0)
    return array


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
    np.copyto(copy, array)
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
