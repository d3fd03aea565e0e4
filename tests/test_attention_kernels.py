"""Attention's CUDA kernels on the simulator against the CPU in float64: sizes around every tile, masks, dropout."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import functional as F
from imgrec_engine import kernels
from imgrec_engine.dtypes import bfloat16, float16, float32, float64

pytestmark = pytest.mark.skipif("sim" not in devices.names(), reason="the simulator has not been built")

# Relative to the largest element of the result. 16-bit results are rounded once, and what they are made of twice.
TOLERANCES = {float64: 1e-14, float32: 2e-6, float16: 3 * 2.0**-11, bfloat16: 3 * 2.0**-8}


def draw(batch, queries, keys, heads, kv_heads, size, value_size):
    generator = np.random.Generator(np.random.Philox([queries, keys, size]))
    shapes = (
        (batch, queries, heads, size),
        (batch, keys, kv_heads, size),
        (batch, keys, kv_heads, value_size),
        (batch, queries, heads, value_size),
    )
    return [generator.standard_normal(shape) for shape in shapes]


def run(arrays, device, dtype, mask=None, convert=lambda x: x, **options):
    """The output, then the gradients of query, key, value and an additive mask, in float64."""
    *inputs, dy = arrays
    tensors = [convert(ie.tensor(x, dtype, device)) for x in inputs]
    additive = mask is not None and mask.dtype != bool
    given = None if mask is None else ie.tensor(mask, dtype if additive else None, device)
    differentiable = [*tensors, given] if additive else tensors
    for x in differentiable:
        x.requires_grad = True
    ie.manual_seed(7)
    y = F.scaled_dot_product_attention(*tensors, given, **options)
    y.backward(ie.tensor(dy, dtype, device))
    return [x.numpy().astype(np.float64) for x in (y, *(x.grad for x in differentiable))]


def assert_agrees(arrays, dtype, mask=None, **options):
    def rounded(x):
        return x if x is None or x.dtype == bool else x.astype(dtype).astype(np.float64)

    ours = run(arrays, "sim", dtype, mask, **options)
    references = run([rounded(x) for x in arrays], "cpu", float64, rounded(mask), **options)
    for a, b in zip(ours, references, strict=True):
        # Where all terms cancel, as for a single key, there is no largest element to compare with.
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCES[dtype] * max(np.abs(b).max(initial=0.0), 1.0))


every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.name)


@every_dtype
@pytest.mark.parametrize("size", [1, 8, 33, 64, 96, 128, 200, 256, 300])
def test_head_sizes(size, dtype):
    assert_agrees(draw(1, 37, 50, 2, 1, size, size), dtype)


@every_dtype
@pytest.mark.parametrize(("size", "value_size"), [(0, 5), (72, 8), (20, 140), (300, 5)])
def test_values_of_another_size(size, value_size, dtype):
    assert_agrees(draw(1, 20, 70, 2, 1, size, value_size), dtype)


@every_dtype
@pytest.mark.parametrize(("queries", "keys"), [(1, 77), (129, 1), (64, 64), (65, 63), (197, 197)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths(queries, keys, is_causal, dtype):
    assert_agrees(draw(1, queries, keys, 1, 1, 16, 16), dtype, is_causal=is_causal)


@every_dtype
@pytest.mark.parametrize("shape", [(2, 4, 67, 83), (1, 4, 67, 83), (67, 1), (4, 1, 83), (2, 1, 1, 83)])
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_masks(shape, kind, dtype):
    mask = np.random.Generator(np.random.Philox(4)).standard_normal(shape)
    assert_agrees(draw(2, 67, 83, 4, 2, 24, 16), dtype, mask > -0.3 if kind == "boolean" else mask)


@every_dtype
@pytest.mark.parametrize(("keys", "size"), [(83, 64), (84, 128), (30, 300)])
def test_dropout(keys, size, dtype):
    assert_agrees(draw(1, 67, keys, 2, 1, size, 20), dtype, dropout_p=0.3, is_causal=True)


@every_dtype
def test_dropout_drops_what_the_cpu_drops(dtype):
    """Values are the identity, so the output is the weights themselves."""
    query, key, _, _ = draw(1, 70, 90, 2, 2, 8, 8)
    value = np.broadcast_to(np.eye(90)[None, :, None, :], (1, 90, 2, 90))
    kept = []
    for device in ("sim", "cpu"):
        ie.manual_seed(11)
        x = [ie.tensor(a, dtype, device) for a in (query, key, value)]
        kept.append(F.scaled_dot_product_attention(*x, dropout_p=0.4).numpy() != 0)
    assert 0.5 < kept[0].mean() < 0.7
    np.testing.assert_array_equal(*kept)


@every_dtype
@pytest.mark.parametrize("shift", [1, 8])
def test_slices_give_what_copies_give(dtype, shift):
    """Rows that begin at odd elements, and aligned ones with other strides."""
    arrays = draw(2, 40, 66, 2, 2, 32, 32)

    def slice_of_wider(x):
        wide = np.zeros((*x.shape[:-1], 64), x.dtype).view(type(x._array))
        wide[..., shift : shift + 32] = x._array
        return ie.Tensor(wide[..., shift : shift + 32])

    for a, b in zip(run(arrays, "sim", dtype), run(arrays, "sim", dtype, convert=slice_of_wider), strict=True):
        np.testing.assert_array_equal(a, b)


@every_dtype
def test_rows_with_nothing_to_attend_to_give_zeros(dtype):
    mask = np.ones((70, 80), dtype=bool)
    mask[[3, 66]] = False
    y, dquery, *_ = run(draw(1, 70, 80, 1, 1, 16, 16), "sim", dtype, mask)
    for x in (y, dquery):
        assert not x[:, [3, 66]].any()
        assert x[:, [2, 65]].all()


@pytest.mark.parametrize(
    ("dtype", "size", "algorithm"),
    [
        (float32, 64, "tiled_simt"),
        (float64, 64, "tiled_simt"),
        (float16, 64, "tiled_tensor_core"),
        (bfloat16, 256, "tiled_tensor_core"),
        (bfloat16, 257, "tiled_simt"),
    ],
)
def test_the_plan_names_the_algorithm(dtype, size, algorithm):
    module, context = kernels.load("sim")
    shapes = [(1, 3, 1, size)] * 3
    assert module.attention_forward_plan(context, *shapes, dtype).algorithm == algorithm
    assert module.attention_backward_plan(context, *shapes, dtype).algorithm == algorithm


def test_longer_sequences_than_a_grid_has_tiles_for_are_refused():
    most = 65535 * 64
    lengths = 1, most, most + 1
    short, longest, longer = ((1, length, 1, 1) for length in lengths)
    module, context = kernels.load("sim")
    module.attention_backward_plan(context, longest, longest, longest, float16)
    for shapes in ((longer, short, short), (short, longer, longer)):
        with pytest.raises(ie.errors.KernelError, match="has 4194241 positions; GPU kernels take up to 4194240"):
            module.attention_forward_plan(context, *shapes, float16)
