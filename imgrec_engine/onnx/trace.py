"""What a model computes: the calls of operations that depend on its input, and how their shapes follow the batch.

The model runs twice, on random inputs of two batch sizes, and every call is observed. What is the same in both runs is
the same always; a length that grows in proportion to the batch is a multiple of it; anything else cannot be exported.
Calls that do not depend on the input are not kept: their results are constants.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import functional, kernels, observe
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import ExportError
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor, tensor

BATCHES = (2, 3)


@dataclass(frozen=True)
class Batch:
    """A length of ``times`` N, where N is the length of the batch."""

    times: int = 1

    def __str__(self) -> str:
        return "N" if self.times == 1 else f"{self.times}N"


Shape = tuple[int | Batch, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """The model's input, or a result that depends on it."""

    shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that does not depend on the input; along a batch axis of ``shape`` it is the same, and has length 1."""

    array: NDArray[Any]
    shape: Shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the array."""
        return self.array.dtype


Operand = Value | Constant


@dataclass(frozen=True)
class Step:
    """One call of an operation, with operands in place of arrays."""

    name: str
    module: str  # the dotted name of the module that called it; "" for the model itself
    arguments: dict[str, Any]
    results: tuple[Value, ...]


@dataclass(frozen=True)
class Trace:
    """All calls that depend on the input, in order."""

    input: Value
    steps: list[Step]
    outputs: tuple[Operand, ...]


@dataclass(frozen=True)
class _Reference:
    """The input (0) or a result, counted in the order of the calls."""

    number: int


@dataclass(frozen=True)
class _Call:
    name: str
    module: str
    arguments: dict[str, Any]
    results: tuple[_Reference, ...]

    def described(self) -> str:
        """What it is called in messages."""
        return f"{self.name} in {described(self.module)}"


def trace(model: Module, example: NDArray[Any], operations: Collection[str]) -> Trace:
    """The calls that a model in evaluation mode makes for a batch like ``example`` (N, ...).

    ExportError where it calls an operation that is not among ``operations``, or where something in it depends on the
    batch or on its values in a way that a graph cannot say.

    >>> import imgrec_engine as ie
    >>> steps = trace(ie.nn.Linear(3, 4), np.ones((1, 3), np.float32), ["linear"]).steps
    >>> [step.name for step in steps], [str(length) for length in steps[0].results[0].shape]
    (['linear'], ['N', '4'])
    """
    with evaluating(model):
        first, second = (_Recording(model, random_batch(example, batch), operations) for batch in BATCHES)
    return _merge(first, second)


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Within it a model is in evaluation mode; after it each of its modules in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def random_batch(example: NDArray[Any], batch: int) -> NDArray[Any]:
    """A batch of random samples like those of the example: bytes, normal floats, or some of its integers.

    >>> random_batch(np.zeros((1, 2, 3), np.uint8), 5).shape
    (5, 2, 3)
    """
    generator = np.random.Generator(np.random.Philox(key=[0, batch]))
    shape = (batch, *example.shape[1:])
    if is_floating(example.dtype):
        return generator.standard_normal(shape).astype(example.dtype)
    if example.dtype == np.uint8:
        return generator.integers(0, 256, shape, np.uint8)
    return generator.choice(example.ravel(), shape)


class _Recording:
    """The calls of one run."""

    def __init__(self, model: Module, example: NDArray[Any], operations: Collection[str]) -> None:
        self.calls: list[_Call] = []
        self.arrays: list[NDArray[Any]] = []  # held, so that no two of the run have the same id
        self._operations = operations
        self._digests: list[int] = []
        self._numbers: dict[int, int] = {}  # by the id of the array
        self._modules = {id(module): name for name, module in model.named_modules()}
        x = tensor(example, requires_grad=is_floating(example.dtype))  # x += y then makes a new tensor
        self._keep(x._array)
        with observe.only(self._observe):
            outputs = model(x)
        self.outputs = [self._referred(leaf) for leaf in leaves(outputs) if leaf is not None]

    @contextlib.contextmanager
    def _observe(self, call: observe.Call) -> Iterator[None]:
        given = [_array(leaf) for leaf in leaves((call.args, call.kwargs))]
        depends = call.phase == "forward" and any(id(array) in self._numbers for array in given)
        if not depends:
            yield
            return
        module = self._calling_module()
        if call.name not in self._operations:
            raise ExportError(f"onnx: the operation {call.name} in {described(module)} has no translation to ONNX")
        bound = inspect.signature(getattr(functional, call.name)).bind(*call.args, **call.kwargs)
        bound.apply_defaults()
        arguments = {name: _mapped(self._referred, value) for name, value in bound.arguments.items()}
        yield
        outputs, pullback = call.result
        if isinstance(outputs, np.generic):  # NumPy gives a number for an array without axes; the tensor will hold this
            outputs = np.asarray(outputs)
            call.result = (outputs, pullback)
        results = tuple(self._keep(array) for array in (outputs if isinstance(outputs, tuple) else (outputs,)))
        self.calls.append(_Call(call.name, module, arguments, results))

    def _calling_module(self) -> str:
        """The name of the innermost module of the model that is running: the first ``self`` of it up the stack."""
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            name = self._modules.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
        return ""

    def _keep(self, array: NDArray[Any]) -> _Reference:
        self._numbers[id(array)] = len(self.arrays)
        self.arrays.append(array)
        self._digests.append(_digest(array))
        return _Reference(len(self.arrays) - 1)

    def _referred(self, leaf: Any) -> Any:
        """A reference in place of an array that depends on the input; other arrays and values as they are."""
        array = _array(leaf)
        number = self._numbers.get(id(array))
        if number is None:
            return array
        if _digest(array) != self._digests[number]:
            raise ExportError("onnx: the model writes to a tensor in place, which a graph cannot say; use where or +")
        return _Reference(number)


def described(module: str) -> str:
    """A module's name for a message."""
    return f"the module {module!r}" if module else "the model itself"


def _array(leaf: Any) -> Any:
    return leaf._array if isinstance(leaf, Tensor) else leaf


def _digest(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0


def leaves(value: Any) -> Iterator[Any]:
    """What nested tuples, lists, dicts and slices hold in the end."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def _mapped(function: Callable[..., Any], *values: Any) -> Any:
    """A function of the leaves of values that are built alike, which tuples, lists and slices are made of."""
    first = values[0]
    if isinstance(first, (tuple, list)):
        if any(type(value) is not type(first) or len(value) != len(first) for value in values):
            return function(*values)
        return type(first)(_mapped(function, *items) for items in zip(*values, strict=True))
    if isinstance(first, slice) and all(isinstance(value, slice) for value in values):
        return slice(*(_mapped(function, *(getattr(v, part) for v in values)) for part in ("start", "stop", "step")))
    return function(*values)


def _merge(first: _Recording, second: _Recording) -> Trace:
    """What both runs have in common, with the batch where they differ in proportion to it."""
    pairs = list(zip(first.calls, second.calls, strict=False))
    differing = next((pair for pair in pairs if pair[0].name != pair[1].name), None)
    if differing or len(first.calls) != len(second.calls):
        what = " and ".join(call.name for call in differing) if differing else "the number of calls"
        raise ExportError(f"onnx: which operations run depends on the batch: {what} for batches of 2 and 3")
    makers = ["the input", *(call.described() for call in first.calls for _ in call.results)]
    values = [
        Value(_merged_shape(a.shape, b.shape, f"{maker}: the result"), a.dtype)
        for a, b, maker in zip(first.arrays, second.arrays, makers, strict=True)
    ]
    steps = []
    for one, other in pairs:
        arguments = {}
        for name, value in one.arguments.items():
            merge = functools.partial(_merged, values, f"{one.described()}: {name}")
            arguments[name] = _mapped(merge, value, other.arguments[name])
        steps.append(Step(one.name, one.module, arguments, tuple(values[ref.number] for ref in one.results)))
    merge = functools.partial(_merged, values, "the model's output")
    outputs = tuple(merge(*pair) for pair in zip(first.outputs, second.outputs, strict=True))
    return Trace(values[0], steps, outputs)


def _merged(values: list[Value], where: str, one: Any, other: Any) -> Any:
    """One leaf of two calls' arguments."""
    if isinstance(one, _Reference) and one == other:
        return values[one.number]
    if isinstance(one, kernels.ARRAYS) and isinstance(other, kernels.ARRAYS):
        return _merged_array(one, other, where)
    if type(one) is type(other) and (one is other or one == other):
        return one
    if type(one) is type(other) is int:
        return _merged_length(one, other, where)
    raise ExportError(f"onnx: {where} depends on the batch: {one!r} for one of 2 and {other!r} for one of 3")


def _merged_length(one: int, other: int, where: str) -> int | Batch:
    if one == other:
        return one
    if one % BATCHES[0] == 0 and one // BATCHES[0] * BATCHES[1] == other:
        return Batch(one // BATCHES[0])
    raise ExportError(
        f"onnx: {where} has a length of {one} for a batch of 2 and of {other} for one of 3, expected a multiple of it"
    )


def _merged_shape(one: tuple[int, ...], other: tuple[int, ...], where: str) -> Shape:
    if len(one) != len(other):
        raise ExportError(f"onnx: {where} has the shape {one} for a batch of 2 and {other} for one of 3")
    return tuple(_merged_length(a, b, where) for a, b in zip(one, other, strict=True))


def _merged_array(one: NDArray[Any], other: NDArray[Any], where: str) -> Constant:
    """A constant, where both arrays are the same but for being repeated along the batch."""
    shape = _merged_shape(one.shape, other.shape, where)
    base = one[tuple(slice(0, 1) if isinstance(length, Batch) else slice(None) for length in shape)]
    for array in (one, other):
        if array is not base and not np.array_equal(np.broadcast_to(base, array.shape), array, equal_nan=True):
            raise ExportError(
                f"onnx: {where} of shape {one.shape} depends on the input but was not computed from it by operations"
            )
    return Constant(base, shape)
