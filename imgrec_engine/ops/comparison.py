"""Comparisons and logic, element by element. Results are boolean and have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imgrec_engine.autograd import Array, Result, differentiable
from imgrec_engine.dtypes import bool_
from imgrec_engine.errors import DTypeError
from imgrec_engine.ops.arithmetic import operands

__all__ = [
    "equal",
    "greater",
    "greater_equal",
    "isfinite",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "not_equal",
]


def _compare(function: Callable[..., Any], x: Any, y: Any) -> Result:
    if not (_is_whole(x) or _is_whole(y)):  # a whole number may lie outside of the dtype; NumPy compares it as it is
        x, y, _ = operands(function.__name__, x, y)
    return function(x, y), None


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _check_booleans(name: str, **arguments: Any) -> None:
    for argument, value in arguments.items():
        if getattr(value, "dtype", bool_) != bool_ or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            seen = getattr(value, "dtype", type(value).__name__)
            raise DTypeError(f"{name}: {argument} is {seen}, expected bool; compare first, e.g. x != 0")


@differentiable
def equal(x: Array | float, y: Array | float) -> Result:
    """Whether x == y.

    >>> import imgrec_engine as ie
    >>> equal(ie.tensor([1, 2]), 2).numpy()
    array([False,  True])
    """
    return _compare(np.equal, x, y)


@differentiable
def not_equal(x: Array | float, y: Array | float) -> Result:
    """Whether x != y.

    >>> import imgrec_engine as ie
    >>> not_equal(ie.tensor([1, 2]), 2).numpy()
    array([ True, False])
    """
    return _compare(np.not_equal, x, y)


@differentiable
def less(x: Array | float, y: Array | float) -> Result:
    """Whether x < y.

    >>> import imgrec_engine as ie
    >>> less(ie.tensor([1, 2]), 2).numpy()
    array([ True, False])
    """
    return _compare(np.less, x, y)


@differentiable
def less_equal(x: Array | float, y: Array | float) -> Result:
    """Whether x <= y.

    >>> import imgrec_engine as ie
    >>> less_equal(ie.tensor([1, 2, 3]), 2).numpy()
    array([ True,  True, False])
    """
    return _compare(np.less_equal, x, y)


@differentiable
def greater(x: Array | float, y: Array | float) -> Result:
    """Whether x > y.

    >>> import imgrec_engine as ie
    >>> greater(ie.tensor([1, 2, 3]), 2).numpy()
    array([False, False,  True])
    """
    return _compare(np.greater, x, y)


@differentiable
def greater_equal(x: Array | float, y: Array | float) -> Result:
    """Whether x >= y.

    >>> import imgrec_engine as ie
    >>> greater_equal(ie.tensor([1, 2, 3]), 2).numpy()
    array([False,  True,  True])
    """
    return _compare(np.greater_equal, x, y)


@differentiable
def logical_and(x: Array | float, y: Array | float) -> Result:
    """Whether both hold; for booleans. Also ``x & y``.

    >>> import imgrec_engine as ie
    >>> logical_and(ie.tensor([True, True]), ie.tensor([True, False])).numpy()
    array([ True, False])
    """
    _check_booleans("logical_and", x=x, y=y)
    return _compare(np.logical_and, x, y)


@differentiable
def logical_or(x: Array | float, y: Array | float) -> Result:
    """Whether one at least holds; for booleans. Also ``x | y``.

    >>> import imgrec_engine as ie
    >>> logical_or(ie.tensor([True, False]), ie.tensor([False, False])).numpy()
    array([ True, False])
    """
    _check_booleans("logical_or", x=x, y=y)
    return _compare(np.logical_or, x, y)


@differentiable
def logical_not(x: Array) -> Result:
    """Whether it does not hold; for booleans. Also ``~x``.

    >>> import imgrec_engine as ie
    >>> logical_not(ie.tensor([True, False])).numpy()
    array([False,  True])
    """
    _check_booleans("logical_not", x=x)
    return np.logical_not(x), None


@differentiable
def isfinite(x: Array) -> Result:
    """Whether each element is neither NaN nor infinite.

    >>> import imgrec_engine as ie
    >>> isfinite(ie.tensor([1.0, float("inf"), float("nan")])).numpy()
    array([ True, False, False])
    """
    return np.isfinite(x), None


@differentiable
def isnan(x: Array) -> Result:
    """Whether each element is NaN.

    >>> import imgrec_engine as ie
    >>> isnan(ie.tensor([1.0, float("inf"), float("nan")])).numpy()
    array([False, False,  True])
    """
    return np.isnan(x), None
