"""Scaled dot-product attention."""

from __future__ import annotations

import functools
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

Shape = tuple[int, ...]


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


class _Attention:
    """What the kernels are told about attention of certain shapes besides their arrays, and their plans."""

    def __init__(
        self, module: Any, context: Any, name: str, query: Shape, key: Shape, value: Shape, dtype: np.dtype[Any]
    ) -> None:
        if len(query) != 4 or len(key) != 4 or len(value) != 4:
            shapes = f"query {query}, key {key} and value {value}"
            raise ShapeError(f"{name}: {shapes}; expected four dimensions each: (N, S, heads, head_size)")
        batch, queries, heads, head_size = query
        self.module, self.context = module, context
        self._described = (context, query, key, value, dtype)
        self.scale = 1 / math.sqrt(max(head_size, 1))
        self.output, self.statistics = (batch, queries, heads, value[-1]), (batch, heads, queries)
        self.wide = float64 if dtype == float64 else float32  # the dtype of the statistics
        self.forward = kernels.new_plan(module.attention_forward_plan, *self._described)

    @functools.cached_property
    def backward(self) -> kernels.Plan:
        """The plan of the pass that gives the gradients of query, key and value."""
        return kernels.new_plan(self.module.attention_backward_plan, *self._described)

    @functools.cached_property
    def mask_backward(self) -> kernels.Plan:
        """The plan of the pass that gives the gradient of a mask."""
        return kernels.new_plan(self.module.attention_mask_backward_plan, *self._described)


_attention = functools.lru_cache(maxsize=1024)(_Attention)  # the same one for the same description


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
    if attn_mask is not None and is_causal:
        raise ValueError(f"{name}: attn_mask and is_causal were both given; put causality into the mask")
    module, context = kernels.of(query)
    call = _attention(module, context, name, query.shape, key.shape, value.shape, query.dtype)
    mask = None if attn_mask is None else _broadcast_mask(name, attn_mask, query, key)
    query, key, value = _without_gaps(query), _without_gaps(key), _without_gaps(value)
    factor = call.scale if scale is None else float(scale)
    state = next_state(query) if dropout_p > 0 else None
    options: tuple[Any, ...] = (mask, state, factor, bool(is_causal), float(dropout_p))
    out, lse = empty(call.output, query.dtype, query), empty(call.statistics, call.wide, query)
    workspace = kernels.workspace(call.forward, query)
    module.attention_forward(context, out, lse, query, key, value, *options, workspace)

    def backward(dout: Array, needs: Needs) -> Gradients:
        module, context = call.module, call.context
        saved = (contiguous(dout), out, lse, query, key, value, *options)
        gradients: list[Array | None] = [None] * 4
        if any(needs[:3]):
            gradients[:3] = [empty_like(query), empty_like(key), empty_like(value)]
            workspace = kernels.workspace(call.backward, query)
            module.attention_backward(context, *gradients[:3], *saved, workspace)
        if attn_mask is not None and needs[3]:
            four = (1,) * (4 - attn_mask.ndim) + attn_mask.shape
            dmask = empty(four, attn_mask.dtype, query)
            workspace = kernels.workspace(call.mask_backward, query)
            module.attention_mask_backward(context, dmask, *saved, workspace)
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
