"""Translations of changes of shape, of indexing, and of putting together and taking apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgrec_engine.dtypes import int32, int64
from imgrec_engine.onnx.graph import FIRST, LAST, TO_FIRST, Graph, Untranslatable, fixed_length
from imgrec_engine.onnx.table import translates
from imgrec_engine.onnx.trace import Constant, Operand, Value

FAR = 2**63 - 1  # past the end of any axis
BEFORE = -FAR  # before its beginning


def _reshaped(graph: Graph, result: Value, x: Operand, **arguments: Any) -> str:
    """Whatever the arguments say, the result's shape is known."""
    return graph.reshape(graph.name(x), result.shape)


for _name in ("reshape", "flatten", "squeeze", "unsqueeze"):
    translates(_name)(_reshaped)


@translates("permute")
def _permute(graph: Graph, result: Value, x: Operand, axes: Any) -> str:
    order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    return graph.transpose(graph.name(x), [axis % len(order) for axis in order])


@translates("transpose")
def _transpose(graph: Graph, result: Value, x: Operand, axis0: int, axis1: int) -> str:
    order = list(range(len(x.shape)))
    order[axis0], order[axis1] = order[axis1], order[axis0]
    return graph.transpose(graph.name(x), order)


@translates("expand")
def _expand(graph: Graph, result: Value, x: Operand, shape: Any) -> str:
    return str(graph.add("Expand", graph.name(x), graph.lengths(result.shape)))


@translates("flip")
def _flip(graph: Graph, result: Value, x: Operand, axis: int | tuple[int, ...]) -> str:
    axes = (axis,) if isinstance(axis, int) else axis
    return _sliced(graph, graph.name(x), {a % len(x.shape): slice(None, None, -1) for a in axes})


@translates("pad")
def _pad(graph: Graph, result: Value, x: Operand, widths: Any, value: float) -> str:
    pairs = np.array([pair if isinstance(pair, (tuple, list)) else (pair, pair) for pair in widths])
    pads = graph.constant(pairs.T.ravel(), np.int64, "widths")
    return str(graph.add("Pad", graph.name(x), pads, graph.constant(value, x.dtype), mode="constant"))


# --- joining ------------------------------------------------------------------------------------------------------


@translates("concatenate")
def _concatenate(graph: Graph, result: Value, tensors: list[Operand], axis: int) -> tuple[str, str]:
    joined = [graph.cast(operand, result.dtype) for operand in tensors]
    layout = graph.common_layout(*joined)
    along = axis % len(result.shape)
    names = (graph.name(operand, layout) for operand in joined)
    return graph.add("Concat", *names, axis=TO_FIRST.index(along) if layout == FIRST else along), layout


@translates("stack")
def _stack(graph: Graph, result: Value, tensors: list[Operand], axis: int) -> str:
    along = axis % len(result.shape)
    place = graph.constant([along], np.int64, "axis")
    rows = [graph.add("Unsqueeze", graph.name(graph.cast(x, result.dtype)), place) for x in tensors]
    return str(graph.add("Concat", *rows, axis=along))


@translates("split")
def _split(graph: Graph, results: tuple[Value, ...], x: Operand, sizes: Any, axis: int) -> tuple[str, ...]:
    along = axis % len(x.shape)
    lengths = [fixed_length(result.shape[along], "a part") for result in results]
    if len(results) == 1:
        return (graph.name(x),)
    names: tuple[str, ...] = graph.add(
        "Split", graph.name(x), graph.constant(lengths, np.int64, "sizes"), outputs=len(results), axis=along
    )
    return names


# --- indexing -----------------------------------------------------------------------------------------------------


@translates("getitem")
def _getitem(graph: Graph, result: Value, x: Operand, index: Any) -> str:
    parts = list(index) if isinstance(index, tuple) else [index]
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[place : place + 1] = [slice(None)] * (len(x.shape) - taken)
    slices: dict[int, slice] = {}
    arrays: dict[int, Operand] = {}
    for axis, part in enumerate(part for part in parts if part is not None):
        if isinstance(part, slice):
            slices[axis] = part
        elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
            slices[axis] = slice(int(part), int(part) + 1 or None)
        else:
            arrays[axis] = _positions(part)
    whole = all(isinstance(part, (slice, list, Operand)) for part in parts)
    if arrays and (len(arrays) > 1 or not whole):
        raise Untranslatable("it indexes with an array and more than slices beside it")
    name = _sliced(graph, graph.name(x), slices)
    for axis, array in arrays.items():
        name = graph.add("Gather", name, graph.name(array), axis=axis)
    return name if whole else graph.reshape(name, result.shape)


def _positions(part: Any) -> Operand:
    """Whole numbers that say which places of an axis are taken."""
    if isinstance(part, list):
        array = np.array(part)
        part = Constant(array, array.shape)
    if not isinstance(part, Operand) or part.dtype not in (int64, int32):
        raise Untranslatable("it indexes with something other than whole numbers, slices, None and an integer array")
    return part


def _sliced(graph: Graph, name: str, slices: dict[int, slice]) -> str:
    """A value cut along several axes; a step below 0 goes backwards."""
    cut = {axis: part for axis, part in slices.items() if part != slice(None)}
    if not cut:
        return name
    steps = [1 if part.step is None else part.step for part in cut.values()]
    ends = []
    for part, step in zip(cut.values(), steps, strict=True):
        start, stop = (0, FAR) if step > 0 else (FAR, BEFORE)
        ends.append((start if part.start is None else part.start, stop if part.stop is None else part.stop))
    rows = ([start for start, _ in ends], [stop for _, stop in ends], list(cut), steps)
    names = (graph.constant(row, np.int64, "slice") for row in rows)
    return str(graph.add("Slice", name, *names))


@translates("gather")
def _gather(graph: Graph, result: Value, x: Operand, axis: int, indices: Operand) -> str:
    return str(graph.add("GatherElements", graph.name(x), graph.name(indices), axis=axis))


@translates("embedding")
def _embedding(graph: Graph, result: Value, indices: Operand, weight: Operand) -> tuple[str, str]:
    table = graph.constant(graph.fixed("weight", weight), name="weight")
    return graph.add("Gather", table, graph.name(indices), axis=0), LAST
