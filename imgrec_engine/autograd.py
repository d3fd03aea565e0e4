"""Reverse-mode differentiation: what a call records, and how a backward pass walks over the record.

An operation is one function on arrays that returns its result together with its pullback::

    @differentiable
    def exp(x: Array) -> Result:
        y = np.exp(x)

        def backward(dy: Array, needs: Needs) -> Gradients:
            return (dy * y,)

        return y, backward

``differentiable`` makes of it a function on tensors. Every parameter whose annotation names ``Array`` may be a tensor;
``backward`` gets the gradient of the result and, for each of these parameters, whether its gradient is needed, and
returns one gradient for each (None where it is not needed). Users write their own operations in the same way.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, overload

import numpy as np

from imgrec_engine import debug
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import AutogradError

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

Array: TypeAlias = Any  # a NumPy or CuPy array inside an op; a Tensor (or what becomes one) for its caller
Needs: TypeAlias = tuple[Any, ...]
Gradients: TypeAlias = tuple[Any, ...]
Pullback: TypeAlias = Callable[..., Gradients]
Result: TypeAlias = tuple[Array, Pullback]
Results: TypeAlias = tuple[tuple[Array, ...], Pullback]

P = ParamSpec("P")


class Version:
    """Counts the in-place writes to a piece of memory; shared by all tensors that view it."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


def owner_of(array: Any) -> Any:
    """The array at the end of a chain of views."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


_tensor_type: Any = None


def set_tensor_type(tensor_type: type[Tensor]) -> None:
    """Tells what operations take and return: tensor.py comes later, because its class has operations as methods."""
    global _tensor_type
    _tensor_type = tensor_type


class _Mode(threading.local):
    recording = True


_mode = _Mode()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within it nothing is recorded, so nothing is kept for a backward pass. Also a decorator.

    >>> import imgrec_engine as ie
    >>> x = ie.ones((2,), requires_grad=True)
    >>> with ie.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    before = _mode.recording
    _mode.recording = False
    try:
        yield
    finally:
        _mode.recording = before


def is_recording() -> bool:
    """Whether operations on this thread are recorded for a backward pass."""
    return _mode.recording


class Node:
    """One recorded call: where its inputs came from, how to pull a gradient back, and what it relies on."""

    __slots__ = ("__weakref__", "edges", "name", "number", "outputs", "pullback", "saved")

    _numbers = itertools.count()

    def __init__(self, name: str, edges: tuple[Any, ...], pullback: Pullback) -> None:
        self.name = name
        self.edges = edges
        self.pullback: Pullback | None = pullback
        self.outputs: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self.saved: list[tuple[str, Version, int]] = []
        self.number = next(Node._numbers)  # consumers always have a higher number: the order of the backward pass

    def check_unchanged(self) -> None:
        """AutogradError where something that the pullback reads has been written to since."""
        for what, version, then in self.saved:
            if version.count != then:
                raise AutogradError(
                    f"backward of {self.name}: {what} was changed in place after the forward pass had saved it; "
                    "change a copy instead, or change it after backward()"
                )

    def release(self) -> None:
        """Frees what the pullback held."""
        self.pullback = None
        self.saved = []
        self.edges = ()


@overload
def differentiable(op: Callable[P, Result]) -> Callable[P, Tensor]: ...
@overload
def differentiable(op: Callable[P, Results]) -> Callable[P, tuple[Tensor, ...]]: ...
def differentiable(op: Callable[P, Any]) -> Callable[P, Any]:
    """Makes a function on arrays that returns ``(result, backward)`` a differentiable function on tensors.

    >>> import numpy as np
    >>> import imgrec_engine as ie
    >>> from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
    >>> @differentiable
    ... def cube(x: Array) -> Result:
    ...     def backward(dy: Array, needs: Needs) -> Gradients:
    ...         return (3 * x**2 * dy,)
    ...     return x**3, backward
    >>> x = ie.tensor([1.0, 2.0], requires_grad=True)
    >>> cube(x).sum().backward()
    >>> x.grad.numpy()
    array([ 3., 12.], dtype=float32)
    """
    name = op.__name__
    parameters = inspect.signature(op).parameters.values()
    slots = [
        (i, p.name, "Sequence" in str(p.annotation)) for i, p in enumerate(parameters) if "Array" in str(p.annotation)
    ]

    @functools.wraps(op)
    def call(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        inputs = [_unwrap(name, slot, values, kwargs) for slot in slots]
        if debug.level:
            outputs, pullback = debug.traced(name, op, values, kwargs)
        else:
            outputs, pullback = op(*values, **kwargs)
        several = type(outputs) is tuple
        arrays = outputs if several else (outputs,)
        node = None
        if _mode.recording and any(map(_requires_grad, inputs)):
            node = Node(name, tuple(map(_edge, inputs)), pullback)
        results = tuple(_wrap(array, inputs, node) for array in arrays)
        if node is not None:
            _note_saved(node, slots, inputs, results)
        return results if several else results[0]

    call.differentiable_op = True  # type: ignore[attr-defined]
    return call


def _unwrap(name: str, slot: tuple[int, str, bool], values: list[Any], kwargs: dict[str, Any]) -> Any:
    """Replaces the tensor(s) given for one parameter by their arrays, and returns what was given."""
    index, parameter, takes_sequence = slot
    place: Any = values
    key: Any = index
    if index >= len(values):
        place, key = kwargs, parameter
        if parameter not in kwargs:
            return None
    given = place[key]
    if isinstance(given, _tensor_type):
        place[key] = given._array
    elif takes_sequence:
        if not isinstance(given, (list, tuple)) or not given:
            raise TypeError(f"{name}: {parameter} is {given!r}, expected a list of one Tensor or more")
        place[key] = [item._array if isinstance(item, _tensor_type) else np.asarray(item) for item in given]
        return tuple(given)
    elif not isinstance(given, _OPERANDS):
        raise TypeError(f"{name}: {parameter} is of type {type(given).__name__}, expected a Tensor")
    return given


_OPERANDS = (np.ndarray, np.generic, int, float, type(None))


def _requires_grad(given: Any) -> bool:
    if isinstance(given, tuple):
        return any(map(_requires_grad, given))
    return isinstance(given, _tensor_type) and given.requires_grad


def _edge(given: Any) -> Any:
    """Where a gradient for this input goes: a leaf tensor, (node, output index), a tuple of such, or None."""
    if isinstance(given, tuple):
        return tuple(map(_edge, given)) if any(map(_requires_grad, given)) else None
    if not _requires_grad(given):
        return None
    return given if given._node is None else _Output(given._node, given._index)


class _Output:
    """One output of a node."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index


def _wrap(array: Any, inputs: list[Any], node: Node | None) -> Tensor:
    """A tensor for an op's output: attached to the node if gradients can flow, sharing the version of what it views."""
    tensor: Tensor = _tensor_type(array if type(array) is np.ndarray else np.asarray(array))
    if tensor._array.base is not None:
        owner = owner_of(tensor._array)
        for given in _tensors(inputs):
            if owner_of(given._array) is owner:
                tensor._version = given._version
    if node is not None:
        tensor._index = len(node.outputs)
        node.outputs.append((tensor._array.shape, tensor._array.dtype))
        if is_floating(tensor._array.dtype):
            tensor.requires_grad = True
            tensor._node = node
    return tensor


def _tensors(inputs: Sequence[Any]) -> Iterator[Tensor]:
    for given in inputs:
        if isinstance(given, _tensor_type):
            yield given
        elif isinstance(given, tuple):
            yield from _tensors(given)


def _note_saved(node: Node, slots: list[tuple[int, str, bool]], inputs: list[Any], outputs: tuple[Tensor, ...]) -> None:
    """Finds the inputs and outputs whose memory the pullback's closure holds, and remembers their versions."""
    held = set()
    for cell in getattr(node.pullback, "__closure__", None) or ():
        content = cell.cell_contents
        for array in content if type(content) in (list, tuple) else (content,):
            if isinstance(array, np.ndarray):
                held.add(id(owner_of(array)))
    named = [(f"argument {parameter!r}", given) for (_, parameter, _), given in zip(slots, inputs, strict=True)]
    for what, given in [*named, *(("its result", output) for output in outputs)]:
        for tensor in _tensors((given,)):
            if id(owner_of(tensor._array)) in held:
                node.saved.append((what, tensor._version, tensor._version.count))
