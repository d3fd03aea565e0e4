"""How shapes and options are written on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec_engine.errors import ImgrecError, ShapeError
from imgrec_engine.inspection.ops import Shape


def read_shapes(words: Sequence[str]) -> Sequence[Shape] | Mapping[str, Shape]:
    """``["8,32", "32"]`` in order or ``["x=8,32", "weight=32"]`` by name.

    >>> read_shapes(["8,32", "32"])
    [(8, 32), (32,)]
    >>> read_shapes(["x=8,32"])
    {'x': (8, 32)}
    """
    if not any("=" in word for word in words):
        return [_shape(word) for word in words]
    return {name: _shape(value) for name, value in map(_split, words)}


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Numbers, true and false, names, and pairs with a comma between.

    >>> read_options(["padding=1,2", "activation=relu", "is_causal=true"])
    {'padding': (1, 2), 'activation': 'relu', 'is_causal': True}
    """
    return {name: _value(text) for name, text in map(_split, words)}


def _split(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ImgrecError(f"inspect: {word!r} is not of the form name=value")
    return name, value


def _shape(text: str) -> Shape:
    lengths = text.split(",")
    if not all(length.isdecimal() for length in lengths):
        raise ShapeError(f"inspect: {text!r} is no shape; expected whole numbers with commas between, as 8,32,32,16")
    return tuple(map(int, lengths))


def _value(text: str) -> Any:
    if "," in text:
        return tuple(map(_value, text.split(",")))
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
