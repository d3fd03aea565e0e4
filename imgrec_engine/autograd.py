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
returns one gradient for each (None where it is not needed, or where it is zero). An operation whose result has no
gradient returns None in place of ``backward``. ``@differentiable(precision=...)`` says how it runs within `autocast`.
Users write their own operations in the same way: docs/custom_ops.md.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import threading
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import arguments, debug, kernels, observe, quiet
from imgrec_engine import device as devices
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import AutogradError, ImgrecError, OutOfMemoryError
from imgrec_engine.mixed_precision import Precision, region

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

if TYPE_CHECKING:
    Array: TypeAlias = Any
else:

    class Array:
        """A NumPy or CuPy array inside an operation, a Tensor for its caller: what annotations of parameters say."""


Needs: TypeAlias = tuple[Any, ...]
Gradients: TypeAlias = tuple[Any, ...]
Pullback: TypeAlias = Callable[..., Gradients]
Result: TypeAlias = tuple[NDArray[Any], Pullback | None]
Results: TypeAlias = tuple[tuple[Array, ...], Pullback | None]

P = ParamSpec("P")


class Version:
    """Tells the states of a piece of memory apart; shared by all tensors that view it."""

    stamp = 0
    packed: dict[Any, Any] | None = None  # what packing.py keeps of this state

    _stamps = itertools.count(1)  # no two writes get the same one, not even on two threads at once

    def advance(self) -> None:
        """The memory has been written to."""
        self.stamp = next(Version._stamps)
        self.packed = None


class _Mode:
    """What holds for the operations of a thread."""

    __slots__ = ("given", "outer", "recording")

    def __init__(self) -> None:
        self.recording = True
        self.given: Sequence[Tensor] = ()  # to the operation that runs
        self.outer: list[bool] = []  # what `recording` was outside of the no_grad blocks


class _Thread(threading.local):
    def __init__(self) -> None:
        self.mode = _Mode()


_thread = _Thread()


class no_grad(contextlib.ContextDecorator):  # noqa: N801 (PyTorch's name, and used as a function)
    """Within it nothing is recorded, so nothing is kept for a backward pass. Also a decorator: ``@no_grad()``.

    >>> import imgrec_engine as ie
    >>> x = ie.ones((2,), requires_grad=True)
    >>> with ie.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __enter__(self) -> None:
        here = _thread.mode
        here.outer.append(here.recording)
        here.recording = False

    def __exit__(self, *error: object) -> None:
        here = _thread.mode
        here.recording = here.outer.pop()


def mode() -> _Mode:
    """What holds on this thread. An op itself sees arrays; here are the tensors that it was given."""
    return _thread.mode


def is_recording() -> bool:
    """Whether operations on this thread are recorded for a backward pass."""
    return _thread.mode.recording


class Node:
    """One recorded call: where its inputs came from, how to pull a gradient back, and what it relies on."""

    __slots__ = ("__weakref__", "edges", "name", "number", "outputs", "pullback", "saved", "several")

    _numbers = itertools.count()

    def __init__(self, name: str, edges: tuple[Any, ...], pullback: Pullback, several: bool) -> None:
        self.name = name
        self.edges = edges
        self.pullback: Pullback | None = pullback
        self.several = several  # whether the op returned a tuple, and its pullback gets one
        self.outputs: list[tuple[tuple[int, ...], np.dtype[Any], type]] = []  # what their gradients must be like
        self.saved: list[tuple[str | None, Version, int]] = []  # by parameter, or None for a result
        self.number = next(Node._numbers)  # consumers always have a higher number: the order of the backward pass

    def check_unchanged(self) -> None:
        """AutogradError where something that the pullback reads has been written to since."""
        for parameter, version, then in self.saved:
            if version.stamp != then:
                what = "its result" if parameter is None else f"argument {parameter!r}"
                raise AutogradError(
                    f"backward of {self.name}: {what} was changed in place after the forward pass had saved it; "
                    "change a copy instead, or change it after backward()"
                )

    def release(self) -> None:
        """Frees what the pullback held."""
        self.pullback = None
        self.saved = []
        self.edges = ()


class _Decorator(Protocol):
    """What ``differentiable`` is once it knows the precision."""

    @overload
    def __call__(self, op: Callable[P, Result]) -> Callable[P, Tensor]: ...
    @overload
    def __call__(self, op: Callable[P, Results]) -> Callable[P, tuple[Tensor, ...]]: ...


@overload
def differentiable(op: Callable[P, Result]) -> Callable[P, Tensor]: ...
@overload
def differentiable(op: Callable[P, Results]) -> Callable[P, tuple[Tensor, ...]]: ...
@overload
def differentiable(*, precision: Precision) -> _Decorator: ...
def differentiable(op: Callable[P, Any] | None = None, *, precision: Precision | None = None) -> Any:
    """Makes a function on arrays that returns ``(result, backward)`` a differentiable function on tensors.

    ``precision`` says what `autocast` does with it: "low" casts its floating arguments to autocast's dtype and "full"
    to float32; without it, they stay what they are.

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
    if op is None:
        return functools.partial(differentiable, precision=precision)
    name, slots = op.__name__, arguments.slots_of(op)
    take_tensors = slots.take

    @functools.wraps(op)
    def call(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        inputs, tensors, array_type, others = take_tensors(values, kwargs)
        if others or array_type is not np.ndarray:
            array_type = arguments.unwrap_others(name, slots, values, kwargs, (inputs, tensors, others))
        here = _thread.mode
        if array_type is not np.ndarray and (gpu := devices.elsewhere(tensors[0]._array)):
            given = {slot.name: value for slot, value in zip(slots, inputs, strict=True) if slot.name in kwargs}
            with gpu:
                return call(*args, **{**kwargs, **given})
        before = quiet.enter()  # NaN and Inf are results; IMGREC_DEBUG=2 looks for them
        here.given = tensors
        try:
            if precision is not None and region.dtype is not None:
                arguments.cast(precision, slots, inputs, values, kwargs)
            if observe.observers:
                result = observe.observed(name, "forward", op, values, kwargs)
            else:
                result = op(*values, **kwargs)
        except _VAGUE as error:
            raise _named(error, name, values, kwargs) from error
        finally:
            here.given = ()
            quiet.leave(before)
        if type(result) is not tuple or len(result) != 2:
            raise _no_pair(name, result)
        outputs, pullback = result
        if type(pullback) is not types.FunctionType and not (pullback is None or callable(pullback)):
            raise _no_pair(name, result)
        several = type(outputs) is tuple
        if not (several or here.recording):
            return _wrap(outputs, array_type, tensors, None)
        node = None
        if here.recording and pullback is not None and any(map(_requires_grad, tensors)):
            node = Node(name, tuple(map(_edge, inputs)), pullback, several)
        if several:
            wrapped = tuple([_wrap(array, array_type, tensors, node) for array in outputs])
        else:
            wrapped = (_wrap(outputs, array_type, tensors, node),)
        if node is not None:
            _note_saved(node, slots, inputs, wrapped)
        return wrapped if several else wrapped[0]

    call.differentiable_op = True  # type: ignore[attr-defined]
    call.precision = precision  # type: ignore[attr-defined]
    return call


_requires_grad = operator.attrgetter("requires_grad")
_VAGUE = (TypeError, ValueError, IndexError, OverflowError, MemoryError)  # what Python and NumPy raise


def _no_pair(name: str, result: Any) -> TypeError:
    return TypeError(f"{name} returned {arguments.describe(result)}, expected a pair (result, backward or None)")


def _named(error: Exception, name: str, args: list[Any], kwargs: dict[str, Any]) -> Exception:
    """The error itself where it names the op, else one of its kind that does, with what the op was given."""
    message, *more = str(error).splitlines() or [type(error).__name__]
    if more:  # pybind11's, which lists types of C++
        message = "an argument is of a wrong type or too large"
    elif name in message:
        return error
    kind = type(error) if isinstance(error, ImgrecError) else next(k for k in _VAGUE if isinstance(error, k))
    call = f"{name}({debug.describe_arguments(args, kwargs)})"
    return (OutOfMemoryError if kind is MemoryError else kind)(f"{call}: {message}")


def _edge(given: Any) -> Any:
    """Where a gradient for this input goes: a leaf tensor, (node, output index), a tuple of such, or None."""
    if isinstance(given, arguments.tensor_type):
        if not given.requires_grad:
            return None
        return given if given._node is None else _Output(given._node, given._index)
    if isinstance(given, tuple):
        edges = tuple(map(_edge, given))
        return None if all(edge is None for edge in edges) else edges
    return None


class _Output:
    """One output of a node."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index


def _wrap(array: Any, array_type: type, tensors: list[Tensor], node: Node | None) -> Tensor:
    """A tensor for an op's output, on the device of its inputs: attached to the node if gradients can flow."""
    if type(array) is not array_type:
        array = devices.place(array, array_type)
    tensor: Tensor = kernels.new_tensor(array, tensors)
    if node is not None:
        tensor._index = len(node.outputs)
        node.outputs.append((array.shape, array.dtype, array_type))
        if is_floating(array.dtype):
            tensor.requires_grad = True
            tensor._node = node
    return tensor


def transfer(x: Tensor, device: str) -> Tensor:
    """A differentiable copy on another device: not one of the ops, whose results are where their arguments are."""
    before, y = x.device, devices.to_device(x._array, device)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (devices.to_device(dy, before),)

    node = Node("to", (_edge(x),), backward, several=False) if is_recording() and x.requires_grad else None
    return _wrap(y, type(y), [x], node)


def _note_saved(node: Node, slots: arguments.Slots, inputs: list[Any], outputs: tuple[Tensor, ...]) -> None:
    """Finds the inputs and outputs whose memory the pullback holds, and remembers their versions."""
    held = _owners_held_by(node.pullback)
    saved = node.saved
    for slot, given in zip(slots, inputs, strict=True):
        for tensor in given if isinstance(given, tuple) else (given,):
            if isinstance(tensor, arguments.tensor_type) and id(kernels.owner_of(tensor._array)) in held:
                saved.append((slot.name, tensor._version, tensor._version.stamp))
    for tensor in outputs:
        if id(kernels.owner_of(tensor._array)) in held:
            saved.append((None, tensor._version, tensor._version.stamp))


def _owners_held_by(pullback: Any) -> set[int]:
    """The owners, by id, of all arrays that a function's closure holds, also within containers and inner functions."""
    seen: set[int] = set()
    contents = [pullback]
    for content in contents:  # which grows meanwhile
        if type(content) in _PLAIN or id(content) in seen:  # inner functions may refer to each other
            continue
        seen.add(id(content))
        if isinstance(content, kernels.ARRAYS):
            seen.add(id(kernels.owner_of(content)))
        elif isinstance(content, types.FunctionType):
            contents += content.__defaults__ or ()
            for cell in content.__closure__ or ():
                try:
                    contents.append(cell.cell_contents)
                except ValueError:  # a variable that was never assigned
                    continue
        elif isinstance(content, (list, tuple)):
            contents += content
        elif isinstance(content, dict):
            contents += content.values()
        elif isinstance(content, functools.partial):
            contents += (content.func, content.args, content.keywords)
    return seen


_PLAIN = frozenset({types.NoneType, bool, int, float, str})  # what many closures hold besides arrays
