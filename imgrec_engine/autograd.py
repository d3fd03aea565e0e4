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
import inspect
import itertools
import operator
import re
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import debug, kernels, observe
from imgrec_engine import device as devices
from imgrec_engine.dtypes import SUPPORTED, is_floating
from imgrec_engine.errors import AutogradError, DeviceError, DTypeError, ImgrecError, OutOfMemoryError
from imgrec_engine.mixed_precision import Precision, cast, region, wanted_dtype

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

    __slots__ = ("packed", "stamp")

    _stamps = itertools.count(1)  # no two writes get the same one, not even on two threads at once

    def __init__(self) -> None:
        self.stamp = 0
        self.packed: dict[Any, Any] | None = None  # what packing.py keeps of this state

    def advance(self) -> None:
        """The memory has been written to."""
        self.stamp = next(Version._stamps)
        self.packed = None


def owner_of(array: Any) -> Any:
    """The array at the end of a chain of views."""
    while isinstance(array.base, kernels.ARRAYS):
        array = array.base
    return array


_tensor_type: Any = None


def set_tensor_type(tensor_type: type[Tensor]) -> None:
    """Tells what operations take and return: tensor.py comes later, because its class has operations as methods."""
    global _tensor_type
    _tensor_type = tensor_type


class _Mode(threading.local):
    recording = True
    given: Sequence[Tensor] = ()  # to the operation that runs


_mode = _Mode()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within it nothing is recorded, so nothing is kept for a backward pass. Also a decorator: ``@no_grad()``.

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


def given_tensors() -> Sequence[Tensor]:
    """The tensors that the operation which runs on this thread was given: an op itself sees their arrays."""
    return _mode.given


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
        self.saved: list[tuple[str, Version, int]] = []
        self.number = next(Node._numbers)  # consumers always have a higher number: the order of the backward pass

    def check_unchanged(self) -> None:
        """AutogradError where something that the pullback reads has been written to since."""
        for what, version, then in self.saved:
            if version.stamp != then:
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
    name, slots = op.__name__, _slots(op)

    @functools.wraps(op)
    def call(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        inputs = [_unwrap(name, slot, values, kwargs) for slot in slots]
        tensors = _tensors(inputs)
        array_type = _array_type(name, slots, inputs, tensors)
        if array_type is not np.ndarray and (gpu := devices.elsewhere(tensors[0]._array)):
            given = {slot.name: value for slot, value in zip(slots, inputs, strict=True) if slot.name in kwargs}
            with gpu:
                return call(*args, **{**kwargs, **given})
        with np.errstate(all="ignore"):  # NaN and Inf are results; IMGREC_DEBUG=2 looks for them
            if precision is not None and region.dtype is not None:
                _cast(precision, slots, inputs, values, kwargs)
            _mode.given = tensors
            try:
                if observe.observers:
                    result = observe.observed(name, "forward", op, values, kwargs)
                else:
                    result = op(*values, **kwargs)
            except _VAGUE as error:
                raise _named(error, name, values, kwargs) from error
            finally:
                _mode.given = ()
        if type(result) is not tuple or len(result) != 2 or not (result[1] is None or callable(result[1])):
            raise TypeError(f"{name} returned {_describe(result)}, expected a pair (result, backward or None)")
        outputs, pullback = result
        several = type(outputs) is tuple
        node = None
        if _mode.recording and pullback is not None and any(map(_requires_grad, tensors)):
            node = Node(name, tuple(map(_edge, inputs)), pullback, several)
        results = tuple([_wrap(array, array_type, tensors, node) for array in (outputs if several else (outputs,))])
        if node is not None:
            _note_saved(node, slots, inputs, results)
        return results if several else results[0]

    call.differentiable_op = True  # type: ignore[attr-defined]
    call.precision = precision  # type: ignore[attr-defined]
    return call


_requires_grad = operator.attrgetter("requires_grad")
_VAGUE = (TypeError, ValueError, IndexError, OverflowError, MemoryError)  # what Python and NumPy raise


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


def _slots(op: Callable[..., Any]) -> list[_Slot]:
    """The parameters that take tensors. Annotations are read as text: they may be strings or types."""
    slots = []
    for place, parameter in enumerate(inspect.signature(op).parameters.values()):
        words = set(re.findall(r"\w+", str(parameter.annotation)))
        if "Array" in words:
            optional = not words.isdisjoint({"None", "Optional"})
            slots.append(_Slot(place, parameter.name, "Sequence" in words, optional, "float" in words))
    if not slots:
        raise TypeError(f"differentiable: {op.__name__} has no parameter that is annotated as Array")
    return slots


class _Slot(NamedTuple):
    """A parameter that takes tensors, as its annotation says."""

    place: int
    name: str
    takes_sequence: bool
    takes_none: bool
    takes_number: bool


def _unwrap(op: str, slot: _Slot, values: list[Any], kwargs: dict[str, Any]) -> Any:
    """Replaces what was given for one parameter by its array(s); returns it with every array as a tensor."""
    where: Any = values
    key: Any = slot.place
    if slot.place >= len(values):
        where, key = kwargs, slot.name
        if slot.name not in kwargs:
            return None
    given = where[key]
    if slot.takes_sequence:
        if not isinstance(given, (list, tuple)) or not given:
            raise TypeError(f"{op}: {slot.name} is {_describe(given)}, expected a list of one Tensor or more")
        given = tuple(_as_tensor(op, f"{slot.name}[{i}]", item) for i, item in enumerate(given))
        where[key] = [tensor._array for tensor in given]
    elif not (given is None and slot.takes_none) and not (isinstance(given, _NUMBERS) and slot.takes_number):
        given = _as_tensor(op, slot.name, given)
        where[key] = given._array
    return given


def _cast(
    precision: Precision, slots: list[_Slot], inputs: list[Any], values: list[Any], kwargs: dict[str, Any]
) -> None:
    """Replaces the arrays of a call by what autocast wants; the edges, and so the gradients, stay the tensors' own."""
    dtype = wanted_dtype(precision, _tensors(inputs))
    if dtype is None:
        return
    for slot, given in zip(slots, inputs, strict=True):
        where: Any = values if slot.place < len(values) else kwargs
        key: Any = slot.place if where is values else slot.name
        if isinstance(given, tuple):
            where[key] = [cast(tensor, dtype) for tensor in given]
        elif isinstance(given, _tensor_type):
            where[key] = cast(given, dtype)


_NUMBERS = (int, float, np.generic)


def _as_tensor(op: str, parameter: str, given: Any) -> Any:
    if isinstance(given, _tensor_type):
        return given
    kinds: Any = (*kernels.ARRAYS, np.generic)
    if not isinstance(given, kinds):
        raise TypeError(f"{op}: {parameter} is {_describe(given)}, expected a Tensor")
    if given.dtype not in SUPPORTED:
        raise DTypeError(f"{op}: {parameter} is {given.dtype.name}; there are no tensors of this dtype")
    return _tensor_type(np.asarray(given) if isinstance(given, (np.ndarray, np.generic)) else given)


def _array_type(op: str, slots: list[_Slot], inputs: list[Any], tensors: list[Tensor]) -> type:
    """The type of array on the device where all the tensors are; DeviceError where they are on several."""
    found: type = type(tensors[0]._array) if tensors else np.ndarray
    for tensor in tensors:
        if type(tensor._array) is not found or (found is not np.ndarray and tensor.device != tensors[0].device):
            named = [
                (f"{slot.name}[{i}]" if slot.takes_sequence else slot.name, item)
                for slot, given in zip(slots, inputs, strict=True)
                for i, item in enumerate(_tensors([given]))
            ]
            device = devices.of(tensors[0]._array)
            seen = ", ".join(f"{name} on {item.device}" for name, item in named)
            moved = " and ".join(f"{name}.to({device!r})" for name, item in named if item.device != device)
            raise DeviceError(f"{op}: {seen}; expected all on one device: {moved}")
    return found


def _describe(given: Any) -> str:
    is_empty = given is None or (isinstance(given, (list, tuple)) and not given)
    return repr(given) if is_empty else f"of type {type(given).__name__}"


def _edge(given: Any) -> Any:
    """Where a gradient for this input goes: a leaf tensor, (node, output index), a tuple of such, or None."""
    if isinstance(given, tuple):
        edges = tuple(map(_edge, given))
        return None if all(edge is None for edge in edges) else edges
    if not (isinstance(given, _tensor_type) and given.requires_grad):
        return None
    return given if given._node is None else _Output(given._node, given._index)


class _Output:
    """One output of a node."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index


def _wrap(array: Any, array_type: type, tensors: list[Tensor], node: Node | None) -> Tensor:
    """A tensor for an op's output, on the device of its inputs: attached to the node if gradients can flow."""
    tensor: Tensor = _tensor_type(devices.place(array, array_type))
    owner = owner_of(tensor._array)
    for given in tensors:
        if owner_of(given._array) is owner:  # a view: writes to one are writes to the other
            tensor._version = given._version
    if node is not None:
        tensor._index = len(node.outputs)
        node.outputs.append((tensor._array.shape, tensor._array.dtype, array_type))
        if is_floating(tensor._array.dtype):
            tensor.requires_grad = True
            tensor._node = node
    return tensor


def transfer(x: Tensor, device: str) -> Tensor:
    """A differentiable copy on another device: not one of the ops, whose results are where their arguments are."""
    before, y = x.device, devices.to_device(x._array, device)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (devices.to_device(dy, before),)

    node = Node("to", (_edge(x),), backward, several=False) if _mode.recording and x.requires_grad else None
    return _wrap(y, type(y), [x], node)


def _tensors(inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors among what was given for an op's parameters, those within sequences too."""
    found = []
    for given in inputs:
        if isinstance(given, _tensor_type):
            found.append(given)
        elif isinstance(given, tuple):
            found.extend(_tensors(given))
    return found


def _note_saved(node: Node, slots: list[_Slot], inputs: list[Any], outputs: tuple[Tensor, ...]) -> None:
    """Finds the inputs and outputs whose memory the pullback holds, and remembers their versions."""
    held: set[int] = set()
    _find_arrays(node.pullback, held)
    named = [(f"argument {slot.name!r}", given) for slot, given in zip(slots, inputs, strict=True)]
    for what, given in [*named, *(("its result", output) for output in outputs)]:
        for tensor in _tensors([given]):
            if id(owner_of(tensor._array)) in held:
                node.saved.append((what, tensor._version, tensor._version.stamp))


def _find_arrays(content: Any, held: set[int]) -> None:
    """Adds the owners of all arrays that a function's closure holds, also within containers and inner functions."""
    if isinstance(content, kernels.ARRAYS):
        held.add(id(owner_of(content)))
    elif isinstance(content, (list, tuple)):
        for item in content:
            _find_arrays(item, held)
    elif isinstance(content, dict):
        _find_arrays(list(content.values()), held)
    elif isinstance(content, functools.partial):
        _find_arrays([content.func, content.args, content.keywords], held)
    elif isinstance(content, types.FunctionType) and id(content) not in held:
        held.add(id(content))  # inner functions may refer to each other
        _find_arrays(content.__defaults__, held)
        for cell in content.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable that was never assigned
                _find_arrays(cell.cell_contents, held)
