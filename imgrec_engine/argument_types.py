"""How the command line reads its arguments, and what it says of one that it cannot read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)


def number_of(kind: Callable[[str], Number], what: str, accepts: Callable[[Number], bool]) -> Callable[[str], Number]:
    """How argparse reads a number of some kind, and what it says of another one."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return read


positive = number_of(int, "a whole number of 1 or more", lambda value: value >= 1)
natural = number_of(int, "a whole number of 0 or more", lambda value: 0 <= value < 2**63)
amount = number_of(float, "a number of 0 or more", lambda value: 0 <= value < math.inf)
share = number_of(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def place(text: str) -> str:
    """A path or a name."""
    return str(Path(text))  # without the slash that a shell's completion leaves


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them; none for "none"."""
    return () if text == "none" else tuple(text.split(","))


def size(text: str) -> tuple[int, int]:
    """Height and width."""
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither N nor HxW") from None
    if not all(8 <= length <= 4096 for length in size):
        raise argparse.ArgumentTypeError(f"{text!r}: 8 to 4096 pixels are possible")
    return size
