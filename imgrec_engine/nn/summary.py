"""A module as text: its tree, with the number of parameters of every part."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgrec_engine.nn.module import Module


def summary(module: Module) -> str:
    """The tree below a module with parameter counts, under a line with what it is, its size, dtype and mode.

    >>> from imgrec_engine import nn
    >>> nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    Sequential(): 58 parameters, 232 B of float32, training
      0: Linear(4, 8)  40
      1: ReLU()         -
      2: Linear(8, 2)  18
    """
    rows = list(_rows(module, 1))
    width = max((len(label) for label, _ in rows), default=0)
    digits = max((len(count) for _, count in rows), default=0)
    lines = [f"{label:<{width}}  {count:>{digits}}" for label, count in rows]
    return "\n".join([f"{_call(module)}: {_totals(module)}", *lines])


def _call(module: Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _count(module: Module) -> int:
    return sum(parameter.size for parameter in module.parameters())


def _rows(module: Module, depth: int) -> list[tuple[str, str]]:
    rows = []
    for name, child in module.named_children():
        count = _count(child)
        rows.append((f"{'  ' * depth}{name}: {_call(child)}", f"{count:,}" if count else "-"))
        rows.extend(_rows(child, depth + 1))
    return rows


def _totals(module: Module) -> str:
    parameters = list(module.parameters())
    mode = "training" if module.training else "evaluation"
    if not parameters:
        return f"no parameters, {mode}"
    frozen = sum(parameter.size for parameter in parameters if not parameter.requires_grad)
    frozen_note = f" ({frozen:,} frozen)" if frozen else ""
    dtypes = ", ".join(dict.fromkeys(parameter.dtype.name for parameter in parameters))
    memory = _bytes(sum(parameter.size * parameter.dtype.itemsize for parameter in parameters))
    return f"{_count(module):,} parameters{frozen_note}, {memory} of {dtypes}, {mode}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
