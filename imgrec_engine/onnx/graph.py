"""The graph that translations build: nodes, initializers, and in which layout each value is at hand.

Our images are channels-last and ONNX's convolutions channels-first. A value of four axes may be in the graph in either
layout; a transpose is made when a node first asks for the layout that is not there. So convolutions, poolings and what
is between them follow each other without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec_engine.onnx.trace import Batch, Constant, Operand, Shape, Value

LAST, FIRST = "channels last", "channels first"
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # the axes of the other layout


class Untranslatable(Exception):  # noqa: N818 (never seen outside: it becomes an ExportError that names the call)
    """Why a call has no translation."""


@dataclass
class Node:
    """One node: ``kind`` is ONNX's name of the operator; an input "" is one that is left out."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """A graph that is being built, in the order in which its nodes run."""

    input: Value
    input_name: str
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)
    outputs: dict[str, Operand] = field(default_factory=dict)
    module: str = ""  # whose call is being translated

    def __post_init__(self) -> None:
        self._places: dict[tuple[Value, str], str] = {(self.input, LAST): self.input_name}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._batch = ""

    # --- nodes and constants ------------------------------------------------------------------------------------------

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; returns the name of its output, or the names of its outputs where there are several."""
        name = f"{self.module.replace('.', '/')}/{kind}_{len(self.nodes)}".lstrip("/")
        names = [name] if outputs == 1 else [f"{name}:{number}" for number in range(outputs)]
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        self.nodes.append(Node(kind, name, given, names, attributes))
        return names[0] if outputs == 1 else tuple(names)

    def constant(self, values: ArrayLike, dtype: Any = None, name: str = "constant") -> str:
        """The name of an initializer with these values; equal ones are stored once."""
        array = np.array(values, dtype=dtype, order="C")
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            stem = f"{self.module}.{name}".lstrip(".")
            taken = stem in self.initializers
            self._constants[key] = unique = f"{stem}_{len(self.initializers)}" if taken else stem
            self.initializers[unique] = array
        return self._constants[key]

    def lengths(self, shape: Shape) -> str:
        """A shape as a tensor of integers, computed where it depends on the batch."""
        if not follows_batch(shape):
            return self.constant(np.array(shape), np.int64, "shape")
        self._batch = self._batch or self.add("Shape", self.input_name, start=0, end=1)
        parts = []
        for length in shape:
            if not isinstance(length, Batch):
                parts.append(self.constant([length], np.int64, "length"))
            elif length.times == 1:
                parts.append(self._batch)
            else:
                parts.append(self.add("Mul", self._batch, self.constant([length.times], np.int64, "times")))
        name: str = self.add("Concat", *parts, axis=0)
        return name

    def reshape(self, name: str, shape: Shape) -> str:
        """The same elements in another shape."""
        if sum(isinstance(length, Batch) for length in shape) > 1:
            target = self.lengths(shape)
        else:
            fixed = [-1 if isinstance(length, Batch) else length for length in shape]
            target = self.constant(fixed, np.int64, "shape")
        reshaped: str = self.add("Reshape", name, target)
        return reshaped

    def transpose(self, name: str, axes: Sequence[int]) -> str:
        """The axes in another order."""
        if tuple(axes) == tuple(range(len(axes))):
            return name
        transposed: str = self.add("Transpose", name, perm=list(axes))
        return transposed

    # --- operands and their layouts -----------------------------------------------------------------------------------

    def place(self, value: Value, name: str, layout: str = LAST) -> None:
        """Says that a value is in the graph under a name."""
        self._places[value, layout] = name

    def name(self, operand: Operand, layout: str = LAST) -> str:
        """The name of an operand in a layout, brought into it where it is not."""
        if isinstance(operand, Constant):
            return self._repeated(operand, layout)
        if (operand, layout) not in self._places:
            other, axes = (FIRST, TO_LAST) if layout == LAST else (LAST, TO_FIRST)
            self._places[operand, layout] = self.transpose(self._places[operand, other], axes)
        return self._places[operand, layout]

    def _repeated(self, constant: Constant, layout: str) -> str:
        """A constant in its full shape."""
        axes = TO_FIRST if layout == FIRST else range(constant.array.ndim)
        name, shape = self.constant(constant.array.transpose(axes)), tuple(constant.shape[axis] for axis in axes)
        if constant.array.shape == constant.shape:
            return name
        repeated: str = self.add("Expand", name, self.lengths(shape))
        return repeated

    def alone_first(self, operand: Operand) -> bool:
        """Whether an operand is at hand with its channels first, and only so."""
        return isinstance(operand, Value) and (operand, LAST) not in self._places

    def common_layout(self, *operands: Operand) -> str:
        """Channels first where that spares a transpose, and all operands can be had so."""
        can = all(isinstance(operand, Constant) or len(operand.shape) == 4 for operand in operands)
        return FIRST if can and any(map(self.alone_first, operands)) else LAST

    def broadcast(self, *operands: Operand) -> tuple[list[str], str]:
        """The names of operands that a node broadcasts, all in one layout, and the layout."""
        layout = self.common_layout(*operands)
        batched = any(isinstance(operand, Value) and follows_batch(operand.shape) for operand in operands)
        names = []
        for operand in operands:
            if isinstance(operand, Constant) and (batched or not follows_batch(operand.shape)):
                array = operand.array
                if layout == FIRST and array.ndim:
                    array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_FIRST)
                names.append(self.constant(array))
            else:
                names.append(self.name(operand, layout))
        return names, layout

    def cast(self, operand: Operand, dtype: np.dtype[Any]) -> Operand:
        """The operand in another dtype."""
        if operand.dtype == dtype:
            return operand
        if isinstance(operand, Constant):
            return Constant(operand.array.astype(dtype), operand.shape)
        layout = FIRST if self.alone_first(operand) else LAST
        result = Value(operand.shape, dtype)
        self.place(result, self.add("Cast", self.name(operand, layout), to=dtype), layout)
        return result

    # --- what translations ask of their arguments ---------------------------------------------------------------------

    def fixed(self, name: str, operand: Any) -> NDArray[Any]:
        """The array of an argument that has to be a constant of one shape."""
        if not isinstance(operand, Constant) or operand.array.shape != operand.shape:
            raise Untranslatable(f"{name} depends on the input, expected weights")
        return operand.array

    # --- the end ------------------------------------------------------------------------------------------------------

    def end(self, operand: Operand, name: str) -> None:
        """Makes an operand an output of the graph under a name."""
        self.nodes.append(Node("Identity", name, [self.name(operand)], [name], {}))
        self.outputs[name] = operand

    def finish(self) -> None:
        """Drops the nodes and initializers that nothing uses."""
        used, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if not used.isdisjoint(node.outputs):
                kept.append(node)
                used.update(node.inputs)
        self.nodes = kept[::-1]
        self.initializers = {name: array for name, array in self.initializers.items() if name in used}


def follows_batch(shape: Shape) -> bool:
    """Whether a shape depends on the batch."""
    return any(isinstance(length, Batch) for length in shape)


def fixed_length(length: int | Batch, what: str) -> int:
    """A length that must not depend on the batch."""
    if isinstance(length, Batch):
        raise Untranslatable(f"{what} is the batch's length or a multiple of it, expected a fixed one")
    return length
