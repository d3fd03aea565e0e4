"""The ops that can be inspected: what their arguments look like, and how much they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imgrec_engine import functional as F

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of the arguments, by name
Options = Mapping[str, Any]


@dataclass(frozen=True)
class InspectedOp:
    """An op with what it is called with where the caller does not say.

    ``axes`` names the axes of each tensor; ``sizes`` gives their lengths. "C/groups" is the length of C divided by the
    option of that name.
    """

    function: Callable[..., Any]
    axes: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    flop: Callable[[Shapes, Shape, Options], int]  # from the arguments' shapes, the first output's, and the options
    flop_formula: str
    options: Options = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)  # integer tensors, with the axis that they choose from


def _per_element(
    function: Any, count: int, formula: str, classes: Mapping[str, str] | None = None, **axes: Any
) -> InspectedOp:
    return InspectedOp(
        function,
        axes,
        {"N": 64, "C": 256},
        lambda shapes, y, options: count * math.prod(next(iter(shapes.values()))),
        formula,
        classes=classes or {},
    )


def _pool(function: Any, formula: str, **options: Any) -> InspectedOp:
    def flop(shapes: Shapes, y: Shape, options: Options) -> int:
        size = options["kernel_size"]
        return math.prod(y) * (size * size if isinstance(size, int) else math.prod(size))

    return InspectedOp(
        function, {"x": ("N", "H", "W", "C")}, {"N": 4, "H": 16, "W": 16, "C": 32}, flop, formula, options
    )


def _conv2d(shapes: Shapes, y: Shape, options: Options) -> int:
    return 2 * math.prod(y) * math.prod(shapes["weight"][1:])


def _recurrent(function: Any, gates: int) -> InspectedOp:
    """Default shapes with ``gates`` rows of weights for each hidden unit."""

    def flop(shapes: Shapes, y: Shape, options: Options) -> int:
        samples, steps = shapes["x"][:2]
        return 2 * samples * steps * (math.prod(shapes["weight_ih"]) + math.prod(shapes["weight_hh"]))

    axes = {
        "x": ("N", "T", "I"),
        "weight_ih": ("G", "I"),
        "weight_hh": ("G", "H"),
        "bias_ih": ("G",),
        "bias_hh": ("G",),
    }
    states = {"h_0": ("N", "H")} if gates != 4 else {"h_0": ("N", "H"), "c_0": ("N", "H")}
    sizes = {"N": 4, "T": 8, "I": 32, "H": 32, "G": gates * 32}
    return InspectedOp(function, axes | states, sizes, flop, "2 N T (products of weight_ih + weight_hh)")


def _attention(shapes: Shapes, y: Shape, options: Options) -> int:
    samples, queries, heads, head_size = shapes["query"]
    keys, value_size = shapes["key"][1], shapes["value"][3]
    causal = options.get("is_causal", False)
    pairs = sum(min(i + 1, keys) for i in range(queries)) if causal else queries * keys
    return 2 * samples * heads * pairs * (head_size + value_size)


_SOFTMAX = "5 for each element: maximum, difference, exp, sum, quotient"
_NORM = "8 for each element: mean 1, variance 3, scaling 4"

OPS: Mapping[str, InspectedOp] = {
    "relu": _per_element(F.relu, 1, "1 for each element", x=("N", "C")),
    "gelu": _per_element(F.gelu, 4, "4 for each element, erf being one", x=("N", "C")),
    "silu": _per_element(F.silu, 4, "4 for each element, exp being one", x=("N", "C")),
    "sigmoid": _per_element(F.sigmoid, 3, "3 for each element, exp being one", x=("N", "C")),
    "tanh": _per_element(F.tanh, 1, "1 for each element", x=("N", "C")),
    "softmax": _per_element(F.softmax, 5, _SOFTMAX, x=("N", "C")),
    "log_softmax": _per_element(F.log_softmax, 5, _SOFTMAX, x=("N", "C")),
    "layer_norm": _per_element(F.layer_norm, 8, _NORM, x=("N", "C"), weight=("C",), bias=("C",)),
    "cross_entropy": _per_element(F.cross_entropy, 5, _SOFTMAX, {"targets": "C"}, logits=("N", "C"), targets=("N",)),
    "mse_loss": _per_element(F.mse_loss, 3, "3 for each element", input=("N", "C"), target=("N", "C")),
    "batch_norm": InspectedOp(
        F.batch_norm,
        {"x": ("N", "H", "W", "C"), **dict.fromkeys(("running_mean", "running_var", "weight", "bias"), ("C",))},
        {"N": 4, "H": 16, "W": 16, "C": 32},
        lambda shapes, y, options: 8 * math.prod(y),
        _NORM,
        {"training": True},
    ),
    "max_pool2d": _pool(F.max_pool2d, "1 comparison for each tap of each output", kernel_size=2),
    "avg_pool2d": _pool(F.avg_pool2d, "1 for each tap of each output", kernel_size=2),
    "conv2d": InspectedOp(
        F.conv2d,
        {"x": ("N", "H", "W", "C"), "weight": ("O", "KH", "KW", "C/groups"), "bias": ("O",)},
        {"N": 2, "H": 16, "W": 16, "C": 32, "O": 64, "KH": 3, "KW": 3},
        _conv2d,
        "2 N OH OW C_out KH KW C / groups",
        {"padding": 1},
    ),
    "rnn": _recurrent(F.rnn, 1),
    "gru": _recurrent(F.gru, 3),
    "lstm": _recurrent(F.lstm, 4),
    "scaled_dot_product_attention": InspectedOp(
        F.scaled_dot_product_attention,
        {"query": ("N", "Q", "heads", "D"), "key": ("N", "K", "heads", "D"), "value": ("N", "K", "heads", "D")},
        {"N": 1, "Q": 64, "K": 64, "heads": 2, "D": 64},
        _attention,
        "2 N heads (pairs of query and key) (head_size + value_size)",
    ),
}
