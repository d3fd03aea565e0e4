"""Tensors from nothing but a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgrec_engine import device as devices
from imgrec_engine.dtypes import as_dtype, float32
from imgrec_engine.tensor import Tensor, tensor

Shape = int | Sequence[int]


def full(shape: Shape, value: float, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of one value.

    >>> full((2,), 7).numpy()
    array([7., 7.], dtype=float32)
    """
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    devices.check(device)
    array = devices.empty(lengths, as_dtype(dtype), _ON_CPU)
    array.fill(value)
    return Tensor(array, requires_grad)


def zeros(shape: Shape, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of zeros.

    >>> zeros((2, 3)).shape
    (2, 3)
    """
    return full(shape, 0, dtype, device, requires_grad)


def ones(shape: Shape, dtype: Any = float32, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A tensor of ones.

    >>> ones(2, dtype="int64").numpy()
    array([1, 1])
    """
    return full(shape, 1, dtype, device, requires_grad)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None, device: str = "cpu") -> Tensor:
    """start, start + step, ... below stop; ``arange(n)`` counts from 0. int64 for integers, float32 otherwise.

    >>> arange(2, 8, 3).numpy()
    array([2, 5])
    """
    first, last = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(number, int) for number in (first, last, step))
    return tensor(np.arange(first, last, step), dtype or ("int64" if whole else "float32"), device)


_ON_CPU = np.empty(0, dtype=np.float32)
