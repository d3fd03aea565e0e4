"""Translations of what works element by element, and of reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgrec_engine.dtypes import bool_, float32, int32, int64, is_floating, promote
from imgrec_engine.onnx.graph import LAST, Graph, Untranslatable, fixed_length
from imgrec_engine.onnx.table import TRANSLATIONS, translates
from imgrec_engine.onnx.trace import Constant, Operand, Value

Placed = tuple[str, str]  # a name and its layout


def activated(graph: Graph, name: str, activation: str | None) -> str:
    """An activation that follows a node, in whatever layout."""
    simple = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
    if not activation:
        return name
    result: str
    if activation in simple:
        result = graph.add(simple[activation], name)
    elif activation == "silu":
        result = graph.add("Mul", name, graph.add("Sigmoid", name))
    else:  # gelu: x (1 + erf(x / sqrt(2))) / 2
        scaled = graph.add("Mul", name, graph.constant(np.sqrt(0.5), float32))
        doubled = graph.add("Add", graph.add("Erf", scaled), graph.constant(1.0, float32))
        result = graph.add("Mul", graph.add("Mul", name, graph.constant(0.5, float32)), doubled)
    return result


def _activation(name: str) -> None:
    def translate(graph: Graph, result: Value, x: Operand) -> Placed:
        (given,), layout = graph.broadcast(x)
        return activated(graph, given, name), layout

    translates(name)(translate)


for _name in ("relu", "gelu", "silu", "sigmoid", "tanh"):
    _activation(_name)


def operands(x: Any, y: Any) -> tuple[Operand, Operand]:
    """Two operands of which one may be a Python number, which takes the dtype that the operation gives it."""
    if not isinstance(x, Operand):
        return _number(x, y), y
    return x, y if isinstance(y, Operand) else _number(y, x)


def _number(value: Any, other: Operand) -> Constant:
    dtype = other.dtype
    if not is_floating(dtype) and isinstance(value, (float, np.floating)):
        dtype = float32
    elif dtype == bool_ and not isinstance(value, (bool, np.bool_)):
        dtype = int64
    elif not is_floating(dtype) and not np.can_cast(np.min_scalar_type(value), dtype):
        dtype = int64  # a comparison with a number that the dtype does not hold
    return Constant(np.array(value, dtype), ())


def _binary(name: str, kind: str, negated: bool = False) -> None:
    def translate(graph: Graph, result: Value, x: Any, y: Any) -> Placed:
        x, y = operands(x, y)
        dtype = promote(x.dtype, y.dtype)
        if name == "divide" and not is_floating(dtype):
            dtype = float32
        names, layout = graph.broadcast(graph.cast(x, dtype), graph.cast(y, dtype))
        value = graph.add(kind, *names)
        return (graph.add("Not", value) if negated else value), layout

    translates(name)(translate)


for _name, _kind in {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
}.items():
    _binary(_name, _kind)
_binary("not_equal", "Equal", negated=True)


def _unary(name: str, kind: str) -> None:
    def translate(graph: Graph, result: Value, x: Operand) -> Placed:
        (given,), layout = graph.broadcast(x if result.dtype == bool_ else graph.cast(x, result.dtype))
        return graph.add(kind, given), layout

    translates(name)(translate)


for _name, _kind in {
    "abs": "Abs",
    "cos": "Cos",
    "exp": "Exp",
    "log": "Log",
    "logical_not": "Not",
    "negative": "Neg",
    "sin": "Sin",
    "sqrt": "Sqrt",
}.items():
    _unary(_name, _kind)


@translates("isnan")
def _isnan(graph: Graph, result: Value, x: Operand) -> Placed:
    (given,), layout = graph.broadcast(x if is_floating(x.dtype) else graph.cast(x, float32))
    return graph.add("IsNaN", given), layout


@translates("isfinite")
def _isfinite(graph: Graph, result: Value, x: Operand) -> Placed:
    (given,), layout = graph.broadcast(x if is_floating(x.dtype) else graph.cast(x, float32))
    return graph.add("Not", graph.add("Or", graph.add("IsNaN", given), graph.add("IsInf", given))), layout


@translates("clone")
def _clone(graph: Graph, result: Value, x: Operand) -> Placed:
    (given,), layout = graph.broadcast(x)
    return given, layout


@translates("cast")
def _cast(graph: Graph, result: Value, x: Operand, dtype: np.dtype[Any]) -> Placed:
    return _clone(graph, result, graph.cast(x, dtype))  # type: ignore[no-any-return]


@translates("dropout")
def _dropout(graph: Graph, result: Value, x: Operand, p: float, training: bool) -> Placed:
    if training and p > 0:
        raise Untranslatable("it draws at random; use nn.Dropout, which does not in evaluation mode")
    return _clone(graph, result, x)  # type: ignore[no-any-return]


@translates("clip")
def _clip(graph: Graph, result: Value, x: Operand, min: float | None, max: float | None) -> Placed:
    (given,), layout = graph.broadcast(graph.cast(x, result.dtype))
    for kind, limit in (("Max", min), ("Min", max)):
        if limit is not None:
            given = graph.add(kind, given, graph.constant(limit, result.dtype))
    return given, layout


@translates("where")
def _where(graph: Graph, result: Value, condition: Operand, x: Any, y: Any) -> Placed:
    x, y = operands(x, y)
    values = (graph.cast(operand, result.dtype) for operand in (x, y))
    names, layout = graph.broadcast(condition, *values)
    return graph.add("Where", *names), layout


# --- reductions ---------------------------------------------------------------------------------------------------


def _axes(x: Operand, axis: int | tuple[int, ...] | None) -> list[int]:
    ndim = len(x.shape)
    given = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return sorted(a % ndim for a in given)


def _reduced(graph: Graph, kind: str, name: str, axes: list[int], keepdims: bool) -> str:
    result: str = graph.add(kind, name, graph.constant(axes, np.int64, "axes"), keepdims=int(keepdims))
    return result if axes else name  # over no axes ONNX means all of them


def _reduction(name: str, kind: str, dtype: np.dtype[Any] | None = None) -> None:
    """A reduction computed in the result's dtype, or in one that the kernels have."""

    def translate(graph: Graph, result: Value, x: Operand, axis: Any, keepdims: bool) -> str:
        if name in ("all", "any"):
            x = graph.cast(x, bool_)
        inner = dtype or (int32 if result.dtype == bool_ else result.dtype)
        reduced = _reduced(graph, kind, graph.name(graph.cast(x, inner)), _axes(x, axis), keepdims)
        return reduced if inner == result.dtype else str(graph.add("Cast", reduced, to=result.dtype))

    translates(name)(translate)


_reduction("sum", "ReduceSum")
_reduction("mean", "ReduceMean")
_reduction("max", "ReduceMax")
_reduction("min", "ReduceMin")
_reduction("all", "ReduceMin", int32)
_reduction("any", "ReduceMax", int32)


@translates("var")
def _var(graph: Graph, result: Value, x: Operand, axis: Any, correction: int, keepdims: bool) -> str:
    axes, name = _axes(x, axis), graph.name(x)
    count = int(np.prod([fixed_length(x.shape[a], "an axis") for a in axes], dtype=np.int64))
    centred = graph.add("Sub", name, _reduced(graph, "ReduceMean", name, axes, keepdims=True))
    squares = _reduced(graph, "ReduceSum", graph.add("Mul", centred, centred), axes, keepdims)
    divisor = graph.constant(max(count - correction, 0), x.dtype, "count")
    return str(graph.add("Div", squares, divisor))


@translates("std")
def _std(graph: Graph, result: Value, **arguments: Any) -> str:
    return str(graph.add("Sqrt", TRANSLATIONS["var"](graph, result, **arguments)))


def _position(name: str, kind: str) -> None:
    def translate(graph: Graph, result: Value, x: Operand, axis: int | None, keepdims: bool) -> str:
        given = graph.name(x)
        if axis is None:
            given, axis = graph.add("Reshape", given, graph.constant([-1], np.int64, "shape")), 0
        return graph.reshape(graph.add(kind, given, axis=axis, keepdims=0), result.shape)

    translates(name)(translate)


_position("argmax", "ArgMax")
_position("argmin", "ArgMin")


@translates("cumsum")
def _cumsum(graph: Graph, result: Value, x: Operand, axis: int) -> str:
    return str(graph.add("CumSum", graph.name(graph.cast(x, result.dtype)), graph.constant(axis, np.int64, "axis")))


def _softmax(name: str, kind: str) -> None:
    def translate(graph: Graph, result: Value, x: Operand, axis: int) -> Placed:
        return graph.add(kind, graph.name(x), axis=axis), LAST

    translates(name)(translate)


_softmax("softmax", "Softmax")
_softmax("log_softmax", "LogSoftmax")
