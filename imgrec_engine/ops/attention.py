"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Pullback, Result, differentiable
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import bool_, float32, float64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.random import next_state

__all__ = ["scaled_dot_product_attention", "self_attention"]


@differentiable(precision="low")
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Result:
    """Softmax(scale query key^T + mask) value, for each sample and head: (N, S_q, heads, value_size).

    ``query`` (N, S_q, heads, head_size), ``key`` (N, S_k, kv_heads, head_size) and ``value`` (N, S_k, kv_heads,
    value_size) are of one floating dtype; float16 and bfloat16 are computed in float32. Each key/value head serves
    heads / kv_heads consecutive query heads. ``attn_mask`` broadcasts to (N, heads, S_q, S_k): a boolean one keeps
    where True, one of the inputs' dtype is added to the scores and may need a gradient. ``is_causal`` lets query i see
    keys 0..i. A query with no key to attend to gives zeros. ``dropout_p`` drops weights at random and scales the rest.
    ``scale`` is 1 / sqrt(head_size) by default. The matrix of scores is never stored.

    ShapeError or DTypeError where these do not fit together, ValueError for a mask together with ``is_causal``.
    Vaswani et al., "Attention is all you need", 2017; computed as in Dao et al., "FlashAttention", 2022.

    >>> import imgrec_engine as ie
    >>> query, key, value = ie.ones((2, 5, 4, 8)), ie.ones((2, 3, 2, 8)), ie.ones((2, 3, 2, 8))
    >>> scaled_dot_product_attention(query, key, value).shape
    (2, 5, 4, 8)
    """
    return _attend("scaled_dot_product_attention", query, key, value, attn_mask, dropout_p, is_causal, scale)


@differentiable(precision="low")
def self_attention(
    qkv: Array, num_heads: int, attn_mask: Array | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Result:
    """Attention of a sequence to itself, from queries, keys and values side by side: (N, S, 3 E) gives (N, S, E).

    What `scaled_dot_product_attention` gives for the three parts of ``qkv``, each E = num_heads head_size wide, read
    where they lie, with the heads of its result joined again. The other arguments and errors are the same; ShapeError
    also where num_heads does not divide.

    >>> import imgrec_engine as ie
    >>> self_attention(ie.ones((2, 5, 48)), num_heads=4).shape
    (2, 5, 16)
    """
    if qkv.ndim != 3 or num_heads < 1 or qkv.shape[2] % (3 * num_heads):
        raise ShapeError(f"self_attention: qkv is {qkv.shape}, expected (N, S, 3 num_heads head_size) for {num_heads=}")
    batch, length, width = qkv.shape
    parts = qkv.reshape(batch, length, 3, num_heads, width // (3 * num_heads))
    query, key, value = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
    out, attend_backward = _attend("self_attention", query, key, value, attn_mask, dropout_p, is_causal, None)

    def backward(dout: Array, needs: Needs) -> Gradients:
        *gradients, dmask = attend_backward(dout.reshape(out.shape), (*needs[:1] * 3, *needs[1:]))
        if not needs[0]:
            return None, dmask
        dqkv = empty(parts.shape, qkv.dtype, qkv)
        np.stack(gradients, axis=2, out=dqkv)
        return dqkv.reshape(qkv.shape), dmask

    return out.reshape(batch, length, width // 3), backward


def _attend(
    name: str,
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> tuple[Array, Pullback]:
    """Attention on arrays."""
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        shapes = f"query {query.shape}, key {key.shape} and value {value.shape}"
        raise ShapeError(f"{name}: {shapes}; expected four dimensions each: (N, S, heads, head_size)")
    if attn_mask is not None and is_causal:
        raise ValueError(f"{name}: attn_mask and is_causal were both given; put causality into the mask")
    mask = None if attn_mask is None else _broadcast_mask(name, attn_mask, query, key)
    query, key, value = _without_gaps(query), _without_gaps(key), _without_gaps(value)
    factor = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    state = next_state(query) if dropout_p > 0 else None
    module, context = kernels.of(query)
    options: tuple[Any, ...] = (mask, state, factor, bool(is_causal), float(dropout_p))
    described = (query.shape, key.shape, value.shape, query.dtype)
    plan = kernels.plan(module.attention_forward_plan, context, *described)
    batch, queries, heads, _ = query.shape
    out = empty((batch, queries, heads, value.shape[-1]), query.dtype, query)
    lse = empty((batch, heads, queries), float64 if query.dtype == float64 else float32, query)
    module.attention_forward(context, out, lse, query, key, value, *options, kernels.workspace(plan, query))

    def backward(dout: Array, needs: Needs) -> Gradients:
        saved = (contiguous(dout), out, lse, query, key, value, *options)
        gradients: list[Array | None] = [None] * 4
        if any(needs[:3]):
            gradients[:3] = [empty_like(query), empty_like(key), empty_like(value)]
            plan = kernels.plan(module.attention_backward_plan, context, *described)
            module.attention_backward(context, *gradients[:3], *saved, kernels.workspace(plan, query))
        if attn_mask is not None and needs[3]:
            four = (1,) * (4 - attn_mask.ndim) + attn_mask.shape
            dmask = empty(four, attn_mask.dtype, query)
            plan = kernels.plan(module.attention_mask_backward_plan, context, *described)
            module.attention_mask_backward(context, dmask, *saved, kernels.workspace(plan, query))
            gradients[3] = dmask.reshape(attn_mask.shape)
        return tuple(gradients)

    return out, backward


def _without_gaps(x: Array) -> Array:
    """The array itself where its last dimension has a stride of one element, else a contiguous copy."""
    return x if x.strides[-1] == x.itemsize else contiguous(x)


def _broadcast_mask(name: str, mask: Array, query: Array, key: Array) -> Array:
    """A view of the mask as (N, heads, S_q, S_k)."""
    if mask.dtype != bool_ and not (is_floating(mask.dtype) and mask.dtype == query.dtype):
        raise DTypeError(f"{name}: attn_mask is {mask.dtype.name}, expected bool or the query's {query.dtype.name}")
    shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ShapeError(
            f"{name}: attn_mask is {mask.shape}, which does not broadcast to (N, heads, S_q, S_k) = {shape}"
        ) from None
