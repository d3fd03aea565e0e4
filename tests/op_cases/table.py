"""What a row of the op table says, and how its sample inputs are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imgrec_engine.dtypes import bfloat16, float16, float32

FLOATS = (float32, float16, bfloat16)

Draw = Callable[[np.random.Generator], np.ndarray]


def normal(*shape: int) -> Draw:
    """Standard normal numbers."""
    return lambda generator: generator.standard_normal(shape)


def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> Draw:
    """Uniform numbers in [low, high)."""
    return lambda generator: generator.uniform(low, high, shape)


def distinct(*shape: int) -> Draw:
    """Numbers 0.125 apart and away from 0: no ties, no kinks; exact in every floating dtype up to 256 of them."""
    size = int(np.prod(shape))
    return lambda generator: (generator.permutation(size).reshape(shape) - size // 2 + 0.5) * 0.125


def integers(*shape: int, low: int = 0, high: int) -> Draw:
    """int64 numbers in [low, high)."""
    return lambda generator: generator.integers(low, high, shape)


def booleans(*shape: int) -> Draw:
    """True or False."""
    return lambda generator: generator.random(shape) < 0.5


@dataclass(frozen=True)
class Sample:
    """One call: positional arguments (Draw for tensors, lists of Draw for sequences of tensors, else as they are)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def sample(*args: Any, **kwargs: Any) -> Sample:
    """Sample in the form of the call it stands for."""
    return Sample(args, kwargs)


@dataclass(frozen=True)
class Bad:
    """A call that must be refused: the error's class and words that its message must hold."""

    error: type[Exception]
    words: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def bad(error: type[Exception], words: str, *args: Any, **kwargs: Any) -> Bad:
    """Bad in the form of the call it stands for."""
    return Bad(error, words, args, kwargs)


@dataclass(frozen=True)
class OpCase:
    """One op: its sample calls, a float64 NumPy reference with the same signature, and what is to be refused.

    `reduction` is the length of the longest sum behind an output element: its square root scales the tolerances.
    `dtypes` are those checked besides float64. `rounds_within`: kernels for tensor cores, which take nothing else,
    round numbers between input and output to 16 bits: an error relative to the largest output. An op without a gradient
    says `differentiable=False`.
    """

    op: Callable[..., Any]
    reference: Callable[..., Any]
    samples: tuple[Sample, ...]
    refused: tuple[Bad, ...] = ()
    reduction: int = 1
    dtypes: tuple[np.dtype, ...] = FLOATS
    differentiable: bool = True
    rounds_within: bool = False
    before: Callable[[], None] = lambda: None  # run before each call: ops that draw random numbers set the seed

    @property
    def name(self) -> str:
        return self.op.__name__
