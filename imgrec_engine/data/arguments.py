"""Checks of transforms' arguments, which may come from a checkpoint that somebody else wrote."""

from __future__ import annotations

from typing import Any

from imgrec_engine.errors import DataError

MAX_SIDE = 16384
"""The largest image side a transform accepts, so that a damaged configuration cannot ask for all memory."""


def checked_size(value: Any, name: str) -> tuple[int, int]:
    """Return (height, width), each in 1 .. `MAX_SIDE`, from that or from one side; raise `DataError` for all else."""
    if isinstance(value, int):
        value = value, value
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{name} must be (height, width) or one number for both, not {value!r}")
    return checked_integer(value[0], 1, name), checked_integer(value[1], 1, name)


def checked_integer(value: Any, low: int, name: str) -> int:
    """Return an integer in `low` .. `MAX_SIDE`; raise `DataError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_SIDE:
        raise DataError(f"{name} must be an integer in {low} .. {MAX_SIDE}, not {value!r}")
    return value


def checked_number(value: Any, low: float, high: float, name: str) -> float:
    """Return a number in `low` .. `high` as float; raise `DataError` for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise DataError(f"{name} must be a number in {low} .. {high}, not {value!r}")
    return float(value)
