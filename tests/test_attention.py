"""Attention beyond the op table: drawn calls, exact properties, and PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_cases.attention import scaled_dot_product_attention as reference

import imgrec_engine as ie
from imgrec_engine import functional as F


def tensors(*arrays):
    return [ie.tensor(a, dtype=a.dtype, requires_grad=a.dtype != bool) for a in arrays]


def gradients(output, weights, inputs):
    """The inputs' gradients of sum(output * weights)."""
    output.backward(ie.tensor(weights, dtype=output.dtype))
    return [x.grad.numpy() for x in inputs]


@st.composite
def calls(draw):
    """(query, key, value, keyword arguments) in float64."""
    generator = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32))))
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    size, value_size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    query = generator.standard_normal((batch, queries, kv_heads * group, size))
    key = generator.standard_normal((batch, keys, kv_heads, size))
    value = generator.standard_normal((batch, keys, kv_heads, value_size))
    kind = draw(st.sampled_from(["none", "causal", "boolean", "additive"]))
    if kind in ("none", "causal"):
        return query, key, value, {"is_causal": kind == "causal"}
    full = (batch, kv_heads * group, queries, keys)
    shape = [n if draw(st.booleans()) else 1 for n in full][draw(st.integers(0, 3)) :]
    mask = generator.standard_normal(shape)
    return query, key, value, {"attn_mask": mask > -0.5 if kind == "boolean" else mask}


@given(calls())
def test_values_of_drawn_calls(call):
    query, key, value, options = call
    given_options = {name: tensors(o)[0] if isinstance(o, np.ndarray) else o for name, o in options.items()}
    ours = F.scaled_dot_product_attention(*tensors(query, key, value), **given_options)
    np.testing.assert_allclose(ours.numpy(), reference(query, key, value, **options), rtol=1e-11, atol=1e-12)


@given(calls())
def test_gradients_of_drawn_calls(call):
    """Against the formula's gradients, worked out on whole matrices."""
    query, key, value, options = call
    inputs = tensors(query, key, value)
    mask = options.get("attn_mask")
    mask_tensor = None if mask is None else tensors(mask)[0]
    output = F.scaled_dot_product_attention(*inputs, mask_tensor, is_causal=options.get("is_causal", False))
    dy = np.random.Generator(np.random.Philox(3)).standard_normal(output.shape)
    ours = gradients(output, dy, inputs)
    group = query.shape[2] // key.shape[2]
    wide_key, wide_value = (np.repeat(x, group, axis=2) for x in (key, value))
    one_hot = np.broadcast_to(
        np.eye(key.shape[1])[None, :, None, :], (len(query), key.shape[1], query.shape[2], key.shape[1])
    )
    weights = reference(query, wide_key, one_hot, **options).transpose(0, 2, 1, 3)
    dweights = np.einsum("nqhe,nkhe->nhqk", dy, wide_value)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    scale = query.shape[-1] ** -0.5
    grouped = (*key.shape[:3], group)
    expected = [
        scale * np.einsum("nhqk,nkhd->nqhd", dscores, wide_key),
        scale * np.einsum("nhqk,nqhd->nkhd", dscores, query).reshape(*grouped, -1).sum(axis=3),
        np.einsum("nhqk,nqhe->nkhe", weights, dy).reshape(*grouped, -1).sum(axis=3),
    ]
    if mask is not None and mask.dtype != bool:
        ours.append(mask_tensor.grad.numpy())
        shape = (1,) * (4 - mask.ndim) + mask.shape
        shared = tuple(i for i in range(4) if shape[i] == 1)
        expected.append(dscores.sum(axis=shared, keepdims=True).reshape(mask.shape))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_rows_with_nothing_to_attend_to_give_zeros_and_zero_gradients():
    x = [np.random.Generator(np.random.Philox(1)).standard_normal((1, 5, 2, 4)) for _ in range(3)]
    hidden = np.zeros((5, 5), dtype=bool)
    for mask in (hidden, np.where(hidden, 0.0, -np.inf)):
        inputs = tensors(*x)
        y = F.scaled_dot_product_attention(*inputs, *tensors(mask))
        assert not y.numpy().any()
        for gradient in gradients(y, np.ones(y.shape), inputs):
            assert not gradient.any()


def test_nan_is_not_hidden():
    x = ie.ones((1, 3, 1, 4))
    query = np.ones((1, 3, 1, 4), dtype=np.float32)
    query[0, 1] = np.nan
    y = F.scaled_dot_product_attention(ie.tensor(query), x, x).numpy()
    assert np.isnan(y[0, 1]).all()
    np.testing.assert_array_equal(y[0, [0, 2]], 1)


def test_large_scores_do_not_overflow():
    """Each query meets its own key with a score far above exp's range."""
    x = np.eye(90, dtype=np.float32)[None, :, None, :] * 100
    y = F.scaled_dot_product_attention(*[ie.tensor(x)] * 3, scale=1.0).numpy()
    np.testing.assert_array_equal(y, x)


def test_dropout_keeps_the_mean_and_follows_the_seed():
    x = ie.zeros((1, 64, 1, 2)), ie.zeros((1, 512, 1, 2)), ie.ones((1, 512, 1, 2))
    ie.manual_seed(3)
    first = F.scaled_dot_product_attention(*x, dropout_p=0.25).numpy()
    second = F.scaled_dot_product_attention(*x, dropout_p=0.25).numpy()
    ie.manual_seed(3)
    again = F.scaled_dot_product_attention(*x, dropout_p=0.25).numpy()
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    # 64 x 512 draws: the mean's standard deviation is sqrt(p / (1 - p) / 32768) = 0.0032.
    assert abs(first[..., 0].mean() - 1) < 0.016
    assert not F.scaled_dot_product_attention(*x, dropout_p=1.0).numpy().any()


def test_slices_of_one_projection_need_no_copy():
    """Query, key and value as views of one array (N, S, 3, heads, size) give the same as copies of them."""
    packed = np.random.Generator(np.random.Philox(5)).standard_normal((2, 9, 3, 4, 8)).astype(np.float32)
    views = F.scaled_dot_product_attention(*(ie.Tensor(packed[:, :, i]) for i in range(3)))
    copies = F.scaled_dot_product_attention(*(ie.tensor(packed[:, :, i].copy()) for i in range(3)))
    np.testing.assert_array_equal(views.numpy(), copies.numpy())


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
def test_agrees_with_pytorch(causal, masked):
    torch = pytest.importorskip("torch")
    generator = np.random.Generator(np.random.Philox(2))
    arrays = [generator.standard_normal((2, s, 4, 32)).astype(np.float32) for s in (100, 120, 120)]
    mask = generator.standard_normal((100, 120)).astype(np.float32) if masked else None
    ours = tensors(*arrays) + ([] if mask is None else tensors(mask))
    theirs = [torch.tensor(a.numpy(), requires_grad=True) for a in ours]
    moved = [t.transpose(1, 2) if t.ndim == 4 else t for t in theirs]
    y = F.scaled_dot_product_attention(*ours, is_causal=causal)
    y_torch = torch.nn.functional.scaled_dot_product_attention(*moved, is_causal=causal).transpose(1, 2)
    np.testing.assert_allclose(y.numpy(), y_torch.detach().numpy(), rtol=1e-5, atol=2e-6)
    dy = generator.standard_normal(y.shape).astype(np.float32)
    y_torch.backward(torch.tensor(dy))
    for a, b in zip(gradients(y, dy, ours), theirs, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-4, atol=1e-5)
