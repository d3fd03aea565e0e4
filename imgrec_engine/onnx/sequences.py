"""Translations of recurrent layers and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.dtypes import bool_
from imgrec_engine.onnx.graph import Graph, Untranslatable, fixed_length
from imgrec_engine.onnx.table import translates
from imgrec_engine.onnx.trace import Constant, Operand, Value

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's gates in their order, as places in ours: i, o, f, c of i, f, g, o; and z, r, h of r, z, n."""


def _recurrent(
    graph: Graph,
    kind: str,
    x: Operand,
    states: list[Operand | None],
    weights: dict[str, Any],
    lengths: Any,
    reverse: bool,
    **attributes: Any,
) -> tuple[str, ...]:
    """One layer in one direction: the output (N, T, H) and the final states (N, H)."""
    if lengths is not None:
        raise Untranslatable("lengths were given; an exported model reads sequences to their end")
    arrays = {name: None if given is None else graph.fixed(name, given) for name, given in weights.items()}
    hidden = arrays["weight_hh"].shape[1]  # type: ignore[union-attr]
    matrices = (_ordered(arrays[name], kind) for name in ("weight_ih", "weight_hh"))
    zeros = np.zeros(len(GATES[kind]) * hidden, x.dtype)
    biases = [zeros if arrays[name] is None else arrays[name] for name in ("bias_ih", "bias_hh")]
    bias = np.concatenate([_ordered(each, kind) for each in biases], axis=1)
    inputs = [
        graph.transpose(graph.name(x), (1, 0, 2)),
        *(graph.constant(matrix, name=name) for name, matrix in zip(("weight_ih", "weight_hh"), matrices, strict=True)),
        graph.constant(bias, name="bias"),
        "",  # the lengths
        *(_initial(graph, state) for state in states),
    ]
    direction = "reverse" if reverse else "forward"
    names = graph.add(kind, *inputs, outputs=1 + len(states), direction=direction, hidden_size=hidden, **attributes)
    output, *finals = (
        graph.add("Squeeze", name, graph.constant([axis], np.int64, "axis"))
        for name, axis in zip(names, (1, 0, 0), strict=False)
    )
    return graph.transpose(output, (1, 0, 2)), *finals


def _ordered(array: NDArray[Any] | None, kind: str) -> NDArray[Any]:
    """The rows of the gates in ONNX's order, with an axis for the directions in front."""
    assert array is not None
    order = GATES[kind]
    gates = array.reshape(len(order), -1, *array.shape[1:])[list(order)]
    return gates.reshape(1, *array.shape)


def _initial(graph: Graph, state: Operand | None) -> str:
    """An initial state (N, H) as (1, N, H); "" for zeros."""
    if state is None or (isinstance(state, Constant) and not state.array.any()):
        return ""
    return str(graph.add("Unsqueeze", graph.name(state), graph.constant([0], np.int64, "axis")))


@translates("rnn")
def _rnn(
    graph: Graph,
    results: tuple[Value, ...],
    x: Operand,
    h_0: Operand | None,
    lengths: Any,
    reverse: bool,
    nonlinearity: str,
    **weights: Any,
) -> tuple[str, ...]:
    return _recurrent(graph, "RNN", x, [h_0], weights, lengths, reverse, activations=[nonlinearity.capitalize()])


@translates("lstm")
def _lstm(
    graph: Graph,
    results: tuple[Value, ...],
    x: Operand,
    h_0: Operand | None,
    c_0: Operand | None,
    lengths: Any,
    reverse: bool,
    **weights: Any,
) -> tuple[str, ...]:
    return _recurrent(graph, "LSTM", x, [h_0, c_0], weights, lengths, reverse)


@translates("gru")
def _gru(
    graph: Graph,
    results: tuple[Value, ...],
    x: Operand,
    h_0: Operand | None,
    lengths: Any,
    reverse: bool,
    **weights: Any,
) -> tuple[str, ...]:
    return _recurrent(graph, "GRU", x, [h_0], weights, lengths, reverse, linear_before_reset=1)


@translates("scaled_dot_product_attention")
def _attention(
    graph: Graph,
    result: Value,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> str:
    """Softmax(scale Q K^T + mask) V in three products' worth of nodes; runtimes fuse them."""
    _check_fixed(dropout_p)
    heads, size = (fixed_length(query.shape[axis], "query's heads or head_size") for axis in (2, 3))
    factor = 1 / math.sqrt(max(size, 1)) if scale is None else scale
    names = graph.name(query), _for_heads(graph, key, heads), _for_heads(graph, value, heads)
    return _attended(graph, names, factor, _visible(graph, query, key, attn_mask, is_causal), attn_mask)


@translates("self_attention")
def _self_attention(
    graph: Graph,
    result: Value,
    qkv: Operand,
    num_heads: int,
    attn_mask: Operand | None,
    dropout_p: float,
    is_causal: bool,
) -> str:
    """The same for the thirds of one array, heads side by side."""
    _check_fixed(dropout_p)
    size = fixed_length(qkv.shape[2], "qkv's last axis") // (3 * num_heads)
    heads = graph.reshape(graph.name(qkv), (*qkv.shape[:2], 3 * num_heads, size))
    thirds = graph.add("Split", heads, graph.constant([num_heads] * 3, np.int64, "sizes"), outputs=3, axis=2)
    visible = _visible(graph, qkv, qkv, attn_mask, is_causal)
    return graph.reshape(_attended(graph, thirds, 1 / math.sqrt(max(size, 1)), visible, attn_mask), result.shape)


def _check_fixed(dropout_p: float) -> None:
    if dropout_p > 0:
        raise Untranslatable(f"dropout_p is {dropout_p}, which draws at random; expected 0 in evaluation mode")


def _attended(graph: Graph, names: Sequence[str], factor: float, visible: str, mask: Operand | None) -> str:
    """The nodes of attention for the names of query, key and value (N, S, heads, size)."""
    query, key, value = names
    scale = graph.constant(factor, np.float32, "scale")
    scaled = graph.add("Mul", graph.transpose(query, (0, 2, 1, 3)), scale)
    scores = graph.add("MatMul", scaled, graph.transpose(key, (0, 2, 3, 1)))
    product = graph.add("MatMul", _weights(graph, scores, visible, mask), graph.transpose(value, (0, 2, 1, 3)))
    return graph.transpose(product, (0, 2, 1, 3))


def _for_heads(graph: Graph, shared: Operand, heads: int) -> str:
    """Keys or values (N, S, kv_heads, size) with each of their heads repeated for the query heads that it serves."""
    count = fixed_length(shared.shape[2], "the number of key heads")
    name = graph.name(shared)
    if count == heads:
        return name
    served = np.repeat(np.arange(count), heads // count)
    return str(graph.add("Gather", name, graph.constant(served, np.int64, "heads"), axis=2))


def _visible(graph: Graph, query: Operand, key: Operand, mask: Operand | None, is_causal: bool) -> str:
    """The name of a boolean mask, True where a query sees a key; "" where all are seen."""
    if is_causal:
        rows, columns = (fixed_length(x.shape[1], "the sequence's length") for x in (query, key))
        return graph.constant(np.tri(rows, columns, dtype=bool), name="causal_mask")
    if mask is None:
        return ""
    if mask.dtype == bool_:
        return graph.name(mask)
    return str(graph.add("Not", graph.add("IsInf", graph.name(mask), detect_positive=0)))


def _weights(graph: Graph, scores: str, visible: str, mask: Operand | None) -> str:
    """The softmax over the keys that are visible; zeros for a query that sees none."""
    if mask is not None and mask.dtype != bool_:
        scores = graph.add("Add", scores, graph.name(mask))
    if not visible:
        return str(graph.add("Softmax", scores, axis=-1))
    lowest = graph.constant(np.finfo(np.float32).min, np.float32, "lowest")
    weights = graph.add("Softmax", graph.add("Where", visible, scores, lowest), axis=-1)
    return str(graph.add("Where", visible, weights, graph.constant(0.0, np.float32, "zero")))
