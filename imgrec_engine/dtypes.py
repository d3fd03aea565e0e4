"""The dtypes of tensors and how they combine."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from imgrec_engine.errors import DTypeError

float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
float16 = np.dtype(np.float16)
bfloat16 = np.dtype(ml_dtypes.bfloat16)
int64 = np.dtype(np.int64)
int32 = np.dtype(np.int32)
uint8 = np.dtype(np.uint8)
bool_ = np.dtype(np.bool_)

FLOATING = (float32, float64, float16, bfloat16)
SUPPORTED = (*FLOATING, int64, int32, uint8, bool_)
_BY_NAME = {dtype.name: dtype for dtype in SUPPORTED}


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype for a name (``"bfloat16"``), a scalar type or a dtype; DTypeError where we have no such type.

    >>> as_dtype("bfloat16").itemsize
    2
    """
    try:
        return _BY_NAME[dtype if isinstance(dtype, str) or dtype is None else np.dtype(dtype).name]
    except (KeyError, TypeError):  # np.dtype(None) would be float64
        raise DTypeError(f"dtype {dtype!r} is not supported; there are {', '.join(_BY_NAME)}") from None


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether gradients can flow through tensors of this dtype."""
    return dtype in FLOATING


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which two tensors meet: the wider of two of a kind, the floating one of two kinds.

    >>> promote(int64, float32).name, promote(float16, bfloat16).name
    ('float32', 'float32')
    """
    if a == b:
        return a
    if is_floating(a) != is_floating(b):
        return a if is_floating(a) else b
    if is_floating(a):
        return float64 if float64 in (a, b) else float32
    return np.promote_types(a, b)
