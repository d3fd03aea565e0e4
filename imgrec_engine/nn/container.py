"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class ModuleList(Module):
    """A list of modules whose parameters are found; state keys count from 0. It has no ``forward`` of its own.

    >>> from imgrec_engine import nn
    >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    >>> len(layers), [name for name, _ in layers[1:].named_parameters()]
    (3, ['0.weight', '0.bias', '1.weight', '1.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Adds a module at the end."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__}: item {len(self)} is of type {type(module).__name__}, not a Module")
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Any:
        chosen = list(self.children())[index]
        return chosen if isinstance(chosen, Module) else ModuleList(chosen)


class Sequential(ModuleList):
    """Modules applied one after another: each gets what the one before it returns.

    >>> import imgrec_engine as ie
    >>> from imgrec_engine import nn
    >>> nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())(ie.ones((2, 3, 4))).shape
    (2, 5)
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        """The last module's result."""
        for module in self.children():
            x = module(x)
        return x

    def __getitem__(self, index: int | slice) -> Any:
        chosen = list(self.children())[index]
        return chosen if isinstance(chosen, Module) else Sequential(*chosen)


class Identity(Module):
    """Returns what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """X."""
        return x
