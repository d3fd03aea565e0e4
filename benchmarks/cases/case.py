"""What a case is: the same work for every framework, from the same numbers.

A process that times one framework imports only that one, so nothing here imports any: what needs a framework's
functions is a function of its module.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

FORWARD = "forward"  # without gradients
RECORDED = "recorded"  # forward, and what the backward pass needs is kept
BOTH = "forward+backward"
STEP = "step"  # a whole step of training or of an optimiser
SEED = 5


@dataclass(frozen=True)
class Layout:
    """How a framework wants arrays of four (or three) dimensions: with these axes; as they lie with us, or moved."""

    name: str
    axes: tuple[int, ...] = ()
    contiguous: bool = False

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Our array as theirs."""
        if array.ndim != len(self.axes):
            return array
        turned = array.transpose(self.axes)
        return np.ascontiguousarray(turned) if self.contiguous else turned

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Their array as ours."""
        return array.transpose(np.argsort(self.axes)) if array.ndim == len(self.axes) else array


OURS = Layout("")
CHANNELS_LAST = Layout("channels-last", (0, 3, 1, 2))
CHANNELS_FIRST = Layout("channels-first", (0, 3, 1, 2), contiguous=True)
HEADS_FIRST = Layout("heads-first", (0, 2, 1, 3), contiguous=True)
HEADS_LAST = Layout("heads-last", (0, 2, 1, 3))
BATCH_FIRST = Layout("batch-first", (0, 1, 2))
TIME_FIRST = Layout("time-first", (1, 0, 2), contiguous=True)


@dataclass(frozen=True)
class Variant:
    """One way in which a framework does the work; of several, the fastest is the one that we are compared with."""

    build: Callable[[Any], Any]  # from the framework's module to what the case calls
    layout: Layout = OURS
    name: str = ""

    @property
    def label(self) -> str:
        """What distinguishes it."""
        return ", ".join(filter(None, (self.layout.name, self.name)))


@dataclass(frozen=True)
class Program:
    """A case made ready in a process: what is timed, within ``context``, and what it computes, to be compared first."""

    run: Callable[[], Any]
    results: Callable[[], Arrays]
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    weights: Callable[[], Arrays] = dict  # from which the other framework is to set out


@dataclass(frozen=True)
class Work:
    """Operations, and bytes that have to be read and written at least once."""

    flop: float
    bytes: float


class Framework(Protocol):
    """A framework in its process, as cases see it."""

    name: str
    module: Any
    functional: Any

    def tensor(self, array: NDArray[Any], requires_grad: bool = False) -> Any:
        """A copy in the framework's own memory that keeps the order of axes in memory."""

    def numpy(self, tensor: Any) -> NDArray[Any]:
        """Its values."""

    def no_grad(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which nothing is recorded."""

    def place(self, model: Any) -> Any:
        """The model on the framework's device."""

    def release_memory(self) -> None:
        """Gives what it keeps for reuse to the system."""

    def adamw(self, parameters: Any, lr: float) -> Any:
        """Its fastest AdamW."""


class Case(Protocol):
    """One row of a table, for each of its modes."""

    @property
    def family(self) -> str:
        """The group it belongs to."""

    @property
    def name(self) -> str:
        """What tells it from the others of its family."""

    @property
    def modes(self) -> tuple[str, ...]:
        """What of it is timed."""

    def variants(self, framework: str, mode: str) -> tuple[Variant, ...]:
        """The ways in which a framework can do it; none where it cannot."""

    def program(self, framework: Framework, mode: str, variant: Variant, weights: Arrays) -> Program:
        """Made ready in a framework's process; ``weights`` is what ours set out from, nothing for ours itself."""

    def work(self, mode: str) -> Work | None:
        """How much it is; None where nobody has counted."""


@dataclass(frozen=True)
class Input:
    """An array by its description: normally distributed numbers times ``scale``, or one of so many classes."""

    shape: tuple[int, ...]
    scale: float = 1.0
    classes: int = 0

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * (8 if self.classes else 4)

    def draw(self, seed: int) -> NDArray[Any]:
        """The array, the same in every process."""
        generator = np.random.Generator(np.random.Philox(seed))
        if self.classes:
            return generator.integers(self.classes, size=self.shape)
        return np.asarray(generator.standard_normal(self.shape, np.float32) * np.float32(self.scale))


Variants = Mapping[str, tuple[Variant, ...]]
