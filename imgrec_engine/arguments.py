"""The arguments of an operation: which of its parameters take tensors, and how tensors become arrays."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec_engine import device as devices
from imgrec_engine import kernels
from imgrec_engine.dtypes import SUPPORTED
from imgrec_engine.errors import DeviceError, DTypeError
from imgrec_engine.mixed_precision import Precision, wanted_dtype
from imgrec_engine.mixed_precision import cast as cast_array

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

tensor_type: Any = None


def set_tensor_type(made: type[Tensor]) -> None:
    """Tells what operations take and return: tensor.py comes later, because its class has operations as methods."""
    global tensor_type
    tensor_type = made
    kernels.serve_tensors(made(np.empty(0)))


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter that takes tensors, as its annotation says."""

    place: int
    name: str
    takes_sequence: bool
    takes_none: bool
    takes_number: bool


class Slots(tuple[Slot, ...]):
    """The parameters of an operation that take tensors.

    ``inputs, tensors, array_type, others = slots.take(values, kwargs)`` puts arrays in the place of tensors among
    the positional arguments: csrc/bindings/tensors.cpp says more.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.take = kernels.tensor_taker([(slot.place, slot.takes_sequence, slot.takes_none) for slot in slots])


def slots_of(op: Callable[..., Any]) -> Slots:
    """The parameters that take tensors. Annotations are read as text: they may be strings or types."""
    slots = []
    for place, parameter in enumerate(inspect.signature(op).parameters.values()):
        words = set(re.findall(r"\w+", str(parameter.annotation)))
        if "Array" in words:
            optional = not words.isdisjoint({"None", "Optional"})
            slots.append(Slot(place, parameter.name, "Sequence" in words, optional, "float" in words))
    if not slots:
        raise TypeError(f"differentiable: {op.__name__} has no parameter that is annotated as Array")
    return Slots(slots)


def unwrap_others(
    op: str, slots: Slots, values: list[Any], kwargs: dict[str, Any], taken: tuple[list[Any], list[Tensor], Any]
) -> type:
    """Puts arrays in the place of what `Slots.take` has left: keywords, lists, numbers, arrays and None.

    ``taken`` is what was given for each slot, the tensors, and the numbers of the slots that are left; the first two
    are completed. Returns the type of the arrays of their device.
    """
    inputs, tensors, others = taken
    for number in others:
        slot, is_positional = slots[number], slots[number].place < len(values)
        if is_positional or slot.name in kwargs:
            given = inputs[number] = _unwrap_other(op, slot, values if is_positional else kwargs)
            tensors += tensors_among([given])
    return _array_type_of(op, slots, inputs, tensors)


def _unwrap_other(op: str, slot: Slot, where: Any) -> Any:
    """The same for one slot; returns what was given, arrays as tensors."""
    key: Any = slot.place if isinstance(where, list) else slot.name
    given = where[key]
    if slot.takes_sequence:
        if not isinstance(given, (list, tuple)) or not given:
            raise TypeError(f"{op}: {slot.name} is {describe(given)}, expected a list of one Tensor or more")
        given = tuple(_as_tensor(op, f"{slot.name}[{i}]", item) for i, item in enumerate(given))
        where[key] = [tensor._array for tensor in given]
    elif not (given is None and slot.takes_none) and not (isinstance(given, _NUMBERS) and slot.takes_number):
        given = _as_tensor(op, slot.name, given)
        where[key] = given._array
    return given


def cast(precision: Precision, slots: Slots, inputs: list[Any], values: list[Any], kwargs: dict[str, Any]) -> None:
    """Replaces the arrays of a call by what autocast wants; the edges, and so the gradients, stay the tensors' own."""
    dtype = wanted_dtype(precision, tensors_among(inputs))
    if dtype is None:
        return
    for slot, given in zip(slots, inputs, strict=True):
        where: Any = values if slot.place < len(values) else kwargs
        key: Any = slot.place if where is values else slot.name
        if isinstance(given, tuple):
            where[key] = [cast_array(tensor, dtype) for tensor in given]
        elif isinstance(given, tensor_type):
            where[key] = cast_array(given, dtype)


_NUMBERS = (int, float, np.generic)


def _as_tensor(op: str, parameter: str, given: Any) -> Any:
    if isinstance(given, tensor_type):
        return given
    kinds: Any = (*kernels.ARRAYS, np.generic)
    if not isinstance(given, kinds):
        raise TypeError(f"{op}: {parameter} is {describe(given)}, expected a Tensor")
    if given.dtype not in SUPPORTED:
        raise DTypeError(f"{op}: {parameter} is {given.dtype.name}; there are no tensors of this dtype")
    return tensor_type(np.asarray(given) if isinstance(given, (np.ndarray, np.generic)) else given)


def _array_type_of(op: str, slots: Slots, inputs: list[Any], tensors: list[Tensor]) -> type:
    """The type of array on the device where all the tensors are; DeviceError where they are on several."""
    found: type = type(tensors[0]._array) if tensors else np.ndarray
    for tensor in tensors:
        if type(tensor._array) is not found or (found is not np.ndarray and tensor.device != tensors[0].device):
            named = [
                (f"{slot.name}[{i}]" if slot.takes_sequence else slot.name, item)
                for slot, given in zip(slots, inputs, strict=True)
                for i, item in enumerate(tensors_among([given]))
            ]
            device = devices.of(tensors[0]._array)
            seen = ", ".join(f"{name} on {item.device}" for name, item in named)
            moved = " and ".join(f"{name}.to({device!r})" for name, item in named if item.device != device)
            raise DeviceError(f"{op}: {seen}; expected all on one device: {moved}")
    return found


def describe(given: Any) -> str:
    """What was given in place of something else, for messages."""
    is_empty = given is None or (isinstance(given, (list, tuple)) and not given)
    return repr(given) if is_empty else f"of type {type(given).__name__}"


def tensors_among(inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors among what was given for an op's parameters, those within sequences too."""
    found = []
    for given in inputs:
        if isinstance(given, tensor_type):
            found.append(given)
        elif isinstance(given, tuple):
            found.extend(tensors_among(given))
    return found
