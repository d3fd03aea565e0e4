"""The table of translations: one function for each operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TRANSLATIONS: dict[str, Callable[..., Any]] = {}
"""By the operation's name; called with the graph, the operation's result(s), and its arguments by name.

A translation adds nodes and returns the name(s) of what they give, or a pair (name, layout). Operands stand where the
operation takes arrays. ``Untranslatable`` says why a call cannot be translated.
"""


def translates(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a function into the table."""

    def add(translation: Callable[..., Any]) -> Callable[..., Any]:
        TRANSLATIONS[name] = translation
        return translation

    return add
