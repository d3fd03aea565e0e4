"""Attention."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.cases.case import HEADS_FIRST, HEADS_LAST, Input, Variant
from benchmarks.cases.operation import Operation


def attention(batch: int, heads: int, length: int, size: int, causal: bool = False) -> Operation:
    """As many queries as keys, without a mask."""

    def theirs(torch: Any) -> Any:
        return functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=causal)

    def ours(ie: Any) -> Any:
        return functools.partial(ie.functional.scaled_dot_product_attention, is_causal=causal)

    def graph(graphs: Any) -> Any:
        return graphs.operator("Attention", is_causal=int(causal))

    return Operation(
        "attention",
        f"{batch} x {heads} heads x {length} x {size}" + (", causal" if causal else ""),
        {name: Input((batch, length, heads, size)) for name in ("query", "key", "value")},
        batch * length * heads * size,
        {
            "ours": (Variant(ours),),
            "torch": (Variant(theirs, HEADS_FIRST), Variant(theirs, HEADS_LAST)),
            "onnxruntime": (Variant(graph, HEADS_FIRST),),
        },
        4.0 * batch * heads * length * length * size * (0.5 if causal else 1.0),
        backward_flop=2.5,
    )


ATTENTION = (
    attention(16, 3, 197, 64),
    attention(64, 6, 65, 64),
    attention(1, 8, 2048, 64, causal=True),
    attention(2, 4, 1024, 128),
)
