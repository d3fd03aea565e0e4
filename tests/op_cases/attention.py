import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import random
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, booleans, integers, normal, sample


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, state=(0, 0)
):
    """The formula, with all scores in one array."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    group = query.shape[2] // key.shape[2]
    key, value = (np.repeat(x, group, axis=2) for x in (key, value))
    scores = scale * np.einsum("nqhd,nkhd->nhqk", query, key)
    if is_causal:
        attn_mask = np.tri(*scores.shape[2:], dtype=bool)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    greatest = scores.max(axis=-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - greatest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    if dropout_p:
        random.set_state(state)
        weights *= (random.rand(weights.shape).numpy() >= dropout_p) / (1 - dropout_p)
    return np.einsum("nhqk,nkhe->nqhe", weights, value)


def self_attention(qkv, num_heads, attn_mask=None, dropout_p=0.0, is_causal=False):
    """The formula for the thirds of the last axis."""
    batch, length, width = qkv.shape
    parts = np.moveaxis(qkv.reshape(batch, length, 3, num_heads, -1), 2, 0)
    return scaled_dot_product_attention(*parts, attn_mask, dropout_p, is_causal).reshape(batch, length, width // 3)


def rows(queries, keys, heads=2, kv_heads=2, size=5, value_size=None, batch=2):
    return (
        normal(batch, queries, heads, size),
        normal(batch, keys, kv_heads, size),
        normal(batch, keys, kv_heads, value_size or size),
    )


def blocked(*shape):
    """A boolean mask whose first query sees nothing."""

    def draw(generator):
        mask = booleans(*shape)(generator)
        mask[..., 0, :] = False
        return mask

    return draw


SAMPLES = (
    sample(*rows(4, 7)),
    sample(*rows(90, 171, heads=1, kv_heads=1, size=33, batch=1)),
    sample(*rows(3, 5, heads=6, kv_heads=2)),
    sample(*rows(3, 5, size=4, value_size=9), scale=0.3),
    sample(*rows(97, 96, kv_heads=1, size=3), is_causal=True),
    sample(*rows(9, 4), is_causal=True),
    sample(*rows(5, 6), attn_mask=blocked(2, 1, 5, 6)),
    sample(*rows(5, 6), attn_mask=booleans(2, 1, 1, 6)),
    sample(*rows(5, 6), attn_mask=normal(2, 2, 5, 6)),
    sample(*rows(5, 6), attn_mask=normal(5, 6)),
    sample(*rows(86, 3), attn_mask=booleans(2, 1, 86, 1)),
    sample(*rows(3, 90, size=3), attn_mask=normal(1, 2, 1, 90)),
    sample(*rows(7, 9), dropout_p=0.4),
    sample(*rows(1, 1, size=1)),
    sample(*rows(3, 0)),
    sample(*rows(0, 3)),
    sample(*rows(2, 300, heads=4, kv_heads=4, size=2, batch=1)),
    sample(*rows(20, 600, size=8, kv_heads=1)),
)

CASES = (
    OpCase(
        F.scaled_dot_product_attention,
        scaled_dot_product_attention,
        SAMPLES,
        (
            bad(ShapeError, "expected four dimensions", normal(2, 3, 4), normal(2, 3, 4), normal(2, 3, 4)),
            bad(ShapeError, "key is float32", normal(2, 3, 1, 4), normal(2, 3, 1, 5), normal(2, 3, 1, 5)),
            bad(ShapeError, "value is float32", normal(2, 3, 1, 4), normal(2, 3, 1, 4), normal(2, 2, 1, 4)),
            bad(ShapeError, "query has 3 heads and key 2", *rows(3, 4, heads=3)),
            bad(DTypeError, "key is int64", normal(1, 2, 1, 4), integers(1, 2, 1, 4, high=3), normal(1, 2, 1, 4)),
            bad(ShapeError, "attn_mask is .* does not broadcast", *rows(3, 4), attn_mask=booleans(3, 3)),
            bad(DTypeError, "attn_mask is int64", *rows(3, 4), attn_mask=integers(3, 4, high=2)),
            bad(ValueError, "attn_mask and is_causal", *rows(3, 4), attn_mask=booleans(3, 4), is_causal=True),
            bad(ValueError, "dropout_p is 1.5", *rows(3, 4), dropout_p=1.5),
        ),
        reduction=171,
        rounds_within=True,
        before=lambda: ie.manual_seed(0),
    ),
    OpCase(
        F.self_attention,
        self_attention,
        (
            sample(normal(2, 5, 24), 2),
            sample(normal(1, 70, 30), 1, is_causal=True),
            sample(normal(2, 6, 18), 3, attn_mask=normal(6, 6)),
            sample(normal(2, 6, 12), 2, attn_mask=booleans(2, 1, 6, 6)),
            sample(normal(2, 7, 12), 4, dropout_p=0.4),
        ),
        (
            bad(ShapeError, "expected \\(N, S, 3 num_heads head_size\\)", normal(2, 3), 1),
            bad(ShapeError, "num_heads=5", normal(2, 3, 12), 5),
            bad(DTypeError, "attn_mask is int64", normal(2, 3, 12), 2, attn_mask=integers(3, 3, high=2)),
        ),
        reduction=70,
        rounds_within=True,
        before=lambda: ie.manual_seed(0),
    ),
)
