"""Indexing and its gradient."""

from __future__ import annotations

from typing import Any

__all__: list[str] = []


def plain(index: Any) -> Any:
    """An index with arrays in place of tensors."""
    if isinstance(index, tuple):
        return tuple(map(plain, index))
    return getattr(index, "_array", index)
