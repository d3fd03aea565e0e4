"""The few places where NumPy's functions do not serve the arrays of every device.

Operations call NumPy. For arrays on GPUs it hands the call on to CuPy's function of the same name (``__array_ufunc__``
and ``__array_function__``), which is all that most of them need. What makes arrays from nothing is called from the
``namespace`` of another array, and the rest of what CuPy does differently is here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imgrec_engine import cuda
from imgrec_engine.dtypes import bfloat16, float32


def namespace(array: Any) -> Any:
    """The module with the functions that make arrays beside this one: numpy or cupy."""
    return np if isinstance(array, np.ndarray) else cuda.namespace()


def number(value: Any, dtype: np.dtype[Any], like: Any) -> Any:
    """A Python number in the dtype given, as a second operand beside an array: OverflowError where it does not fit.

    To a GPU it travels with the call, while an array without dimensions would have to lie there first.
    """
    return np.asarray(value, dtype=dtype) if isinstance(like, np.ndarray) else dtype.type(value)


def where(condition: Any, x: Any, y: Any, dtype: np.dtype[Any]) -> Any:
    """X where the condition holds and y elsewhere, in the dtype given: CuPy's has none for bfloat16 and gives float32.

    A condition that is one number of the host chooses x or y as a whole.
    """
    if isinstance(condition, np.bool_):
        return x if condition else y
    return np.where(condition, x, y).astype(dtype, copy=False)


def comparable(x: Any) -> Any:
    """X in a dtype in which all devices find its largest and smallest elements: CuPy does not in bfloat16."""
    return x if isinstance(x, np.ndarray) or x.dtype != bfloat16 else x.astype(float32)


def take_rows(table: Any, rows: Any, out: Any) -> None:
    """Writes the rows of a table at places that were checked; CuPy checks none, and NumPy would copy ``out`` for it."""
    if isinstance(table, np.ndarray):
        np.take(table, rows, axis=0, out=out, mode="clip")
    else:
        table.take(rows, axis=0, out=out)
