"""Tensors from nothing but a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgrec_engine import device as devices
from imgrec_engine import dlpack
from imgrec_engine.dtypes import as_dtype, float32
from imgrec_engine.ops.shape import lengths_of
from imgrec_engine.tensor import Tensor, tensor

Shape = int | Sequence[int]


def full(shape: Shape, value: float, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of one value.

    >>> full((2,), 7).numpy()
    array([7., 7.], dtype=float32)
    """
    array = devices.empty_on(device, lengths_of((shape,)), as_dtype(dtype))
    array.fill(value)
    return Tensor(array, requires_grad)


def zeros(*shape: Shape, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of zeros: ``zeros(2, 3)`` or ``zeros((2, 3))``.

    >>> zeros((2, 3)).shape
    (2, 3)
    """
    return full(lengths_of(shape), 0, dtype, device, requires_grad)


def ones(*shape: Shape, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of ones: ``ones(2, 3)`` or ``ones((2, 3))``.

    >>> ones(2, dtype="int64").numpy()
    array([1, 1])
    """
    return full(lengths_of(shape), 1, dtype, device, requires_grad)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None, device: str = "cpu") -> Tensor:
    """start, start + step, ... below stop; ``arange(n)`` counts from 0. int64 for integers, float32 otherwise.

    >>> arange(2, 8, 3).numpy()
    array([2, 5])
    """
    if step == 0:
        raise ValueError("arange: step is 0, expected another number")
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(number, int) for number in (first, last, step))
    return tensor(np.arange(first, last, step), dtype or ("int64" if whole else "float32"), device)


def from_dlpack(source: Any, copy: bool | None = None) -> Tensor:
    """A tensor that shares the memory of an array of another library (PyTorch, NumPy, JAX, ...), bfloat16 included.

    ``source`` has ``__dlpack__`` and ``__dlpack_device__`` and lives on the CPU. ``copy=True`` copies, ``copy=False``
    refuses to (BufferError where the source cannot share), None copies where it must. A write on either side shows on
    the other; writes by the other library escape autograd's check of what it has saved.

    >>> import numpy as np
    >>> array = np.zeros(2, dtype=np.float32)
    >>> from_dlpack(array).fill_(3).shape, array
    ((2,), array([3., 3.], dtype=float32))
    """
    return Tensor(dlpack.import_array(source, copy))
