"""What runs when, for those who want to know: IMGREC_DEBUG and `ie.profile()` watch operations through this module.

While nobody watches, an operation asks whether ``observers`` is empty and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

from imgrec_engine import kernels


@dataclass(eq=False)
class Call:
    """One call of an operation or its pullback, or one step of an optimiser, or one replay of a graph."""

    name: str
    phase: str  # "forward", "backward", "optimizer", or "graph" for a captured step that is replayed
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any = None
    algorithms: list[str] = field(default_factory=list)  # of the kernels that it planned

    @property
    def given(self) -> Sequence[Any]:
        """The arguments that tell what it does: of a pullback the gradients, and not which ones are needed."""
        return self.args[:1] if self.phase == "backward" else self.args


P = ParamSpec("P")
Observer = Callable[[Call], contextlib.AbstractContextManager[None]]
observers: tuple[Observer, ...] = ()


def observed(
    name: str, phase: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Calls the function within the context that each observer makes for the call."""
    call = Call(name, phase, args, kwargs)
    with contextlib.ExitStack() as contexts:
        for observer in observers:
            contexts.enter_context(observer(call))
        kernels.take_algorithms()
        call.result = function(*args, **kwargs)
        call.algorithms = kernels.take_algorithms()
    return call.result


def optimizer_step(step: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """Makes the step of an optimiser a call that is observed, with the parameters as its arguments."""

    @functools.wraps(step)
    def call(optimizer: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if observers:
            arrays = [parameter._array for group in optimizer.param_groups for parameter in group["params"]]
            observed(type(optimizer).__name__, "optimizer", lambda *_: step(optimizer, *args, **kwargs), arrays, {})
        else:
            step(optimizer, *args, **kwargs)

    return call


def add(observer: Observer) -> None:
    """From now on the observer sees the calls of all threads."""
    global observers
    observers = (*observers, observer)


@contextlib.contextmanager
def only(observer: Observer) -> Iterator[None]:
    """Within it nobody else watches."""
    global observers
    before, observers = observers, (observer,)
    try:
        yield
    finally:
        observers = before


def remove(observer: Observer) -> None:
    """From now on it sees none."""
    global observers
    observers = tuple(other for other in observers if other is not observer)
