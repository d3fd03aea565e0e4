"""Recurrent layers: one layer in one direction."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.cases.case import BATCH_FIRST, TIME_FIRST, Input, Layout, Variant
from benchmarks.cases.operation import Operation

GATES = {"lstm": 4, "gru": 3}


def recurrent(cell: str, batch: int, steps: int, inputs: int, hidden: int) -> Operation:
    """A whole sequence from a state of zeros; the output of every step."""
    gates = GATES[cell]

    def theirs(layout: Layout, torch: Any) -> Any:
        function = getattr(torch, cell)
        first = layout is BATCH_FIRST

        def call(x: Any, *weights: Any) -> Any:
            zeros = x.new_zeros((1, batch, hidden))
            state = (zeros, zeros) if cell == "lstm" else zeros
            output = function(x, state, weights, True, 1, 0.0, torch.is_grad_enabled(), False, first)
            return output[0]

        return call

    scale = hidden**-0.5
    return Operation(
        "recurrent",
        f"{cell}, batch {batch}, {steps} steps, {inputs} -> {hidden}",
        {
            "x": Input((batch, steps, inputs)),
            "weight_ih": Input((gates * hidden, inputs), scale),
            "weight_hh": Input((gates * hidden, hidden), scale),
            "bias_ih": Input((gates * hidden,), scale),
            "bias_hh": Input((gates * hidden,), scale),
        },
        batch * steps * hidden,
        {
            "ours": (Variant(lambda ie: _ours(getattr(ie.functional, cell), 2 if cell == "lstm" else 1)),),
            "torch": tuple(Variant(functools.partial(theirs, way), way) for way in (BATCH_FIRST, TIME_FIRST)),
            "onnxruntime": (Variant(functools.partial(_graph, cell, hidden), TIME_FIRST),),
        },
        2.0 * batch * steps * gates * hidden * (inputs + hidden),
    )


def _ours(function: Any, states: int) -> Any:
    return lambda x, *weights: function(x, *[None] * states, *weights)[0]


def _graph(cell: str, hidden: int, graphs: Any) -> Any:
    """ONNX orders the gates differently, joins the biases, and has an axis for the direction."""
    order = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}[cell]  # of i, f, g, o: i, o, f, g; of r, z, n: z, r, n

    def prepare(x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any) -> tuple[Any, ...]:
        blocks = [np.split(array, len(order)) for array in (weight_ih, weight_hh, bias_ih, bias_hh)]
        w, r, *b = (np.concatenate([parts[i] for i in order])[None] for parts in blocks)
        return x, w, r, np.concatenate(b, axis=1)

    settings = {"linear_before_reset": 1} if cell == "gru" else {}
    return graphs.operator(cell.upper(), prepare, squeezed=1, hidden_size=hidden, **settings)


SIZES = ((32, 64, 128, 128), (64, 28, 28, 128), (16, 100, 512, 512), (1, 100, 128, 256))
RECURRENT = tuple(recurrent(cell, *sizes) for cell in GATES for sizes in SIZES)
