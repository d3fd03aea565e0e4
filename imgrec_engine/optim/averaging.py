"""Averages of weights over the steps of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from imgrec_engine.device import on
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import CheckpointError
from imgrec_engine.tensor import Tensor, tensor

if TYPE_CHECKING:
    from imgrec_engine.nn import Module


class ExponentialMovingAverage:
    """Keeps average = decay * average + (1 - decay) * value of a module's parameters and floating buffers.

    Call ``update`` after each of the optimiser's steps. In step t = 0, 1, 2, ... the decay is at most
    (1 + t) / (10 + t), so that the first weights are soon forgotten; buffers of whole numbers are copied. Polyak and
    Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the decay's rise is TensorFlow's.

    >>> import imgrec_engine as ie
    >>> layer = ie.nn.Linear(1, 1, bias=False)
    >>> _ = layer.load_state_dict({"weight": [[1.0]]})
    >>> average = ExponentialMovingAverage(layer, decay=0.5)
    >>> _ = layer.load_state_dict({"weight": [[2.0]]})
    >>> average.update()  # the first step's decay is 0.1
    >>> with average.applied():
    ...     round(layer.weight.item(), 3)
    1.9
    >>> layer.weight.item()
    2.0
    """

    def __init__(self, module: Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay is {decay}, expected 0 <= decay < 1")
        self.module = module
        self.decay = decay
        self.updates = 0
        self.averages = _copies(module.state_dict())

    def update(self) -> None:
        """Takes the module's present values into the averages."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self.module.state_dict().items():
            average = self.averages[name]
            if average.device != value.device:
                average = self.averages[name] = average.to(value.device)
            with on(value._array):
                if is_floating(value.dtype):
                    average._array *= decay
                    average._array += (1 - decay) * value._array
                else:
                    average._array[...] = value._array

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the module has the averages; after it, its own values again, to the last bit."""
        own = _copies(self.module.state_dict())
        self.module.load_state_dict(self.averages)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """``{"averages": {name: Tensor}, "updates": int}``, sharing memory."""
        return {"averages": self.averages, "updates": self.updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues from what ``state_dict`` returned; CheckpointError if it belongs to another module."""
        shapes, given = (
            {name: value.shape for name, value in a.items()} for a in (self.averages, state_dict["averages"])
        )
        if shapes != given:
            wrong = next(name for name in {**shapes, **given} if shapes.get(name) != given.get(name))
            raise CheckpointError(
                f"ExponentialMovingAverage.load_state_dict: {wrong} has shape {given.get(wrong)}, "
                f"expected {shapes.get(wrong)}"
            )
        for name, value in state_dict["averages"].items():
            self.averages[name] = tensor(value, device=self.averages[name].device)
        self.updates = int(state_dict["updates"])


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor(value, device=value.device) for name, value in state.items()}
