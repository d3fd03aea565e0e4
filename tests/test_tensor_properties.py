"""Broadcasting, indexing and reductions against NumPy on shapes that Hypothesis draws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import imgrec_engine as ie
from imgrec_engine import functional as F

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FULL_SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)


def numbers(shape):
    """Small whole numbers: sums and products are exact in any order."""
    return np.random.Generator(np.random.Philox(sum(shape) + len(shape))).integers(-4, 5, shape).astype(np.float64)


def gradient(function, *arrays):
    """The value, a weight for each of its elements, and the gradients of their weighted sum."""
    leaves = [ie.tensor(array, requires_grad=True) for array in arrays]
    y = function(*leaves)
    weight = numbers(y.shape)
    return y.numpy(), weight, ie.grad((y * ie.tensor(weight)).sum(), leaves)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=4))
def test_broadcasting(shapes):
    x, y = (numbers(shape) for shape in shapes.input_shapes)
    z, weight, (dx, dy) = gradient(F.multiply, x, y)
    np.testing.assert_array_equal(z, x * y)
    full = np.broadcast_shapes(x.shape, y.shape)
    for found, other, own in ((dx, y, x), (dy, x, y)):
        terms = np.broadcast_to(weight * other, full)
        lead = tuple(range(terms.ndim - own.ndim))
        ones = tuple(i + len(lead) for i, n in enumerate(own.shape) if n == 1)
        np.testing.assert_array_equal(found.numpy(), terms.sum(axis=(*lead, *ones)).reshape(own.shape))


@given(st.data())
def test_basic_indexing(data):
    x = numbers(data.draw(SHAPES))
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    y, weight, (dx,) = gradient(lambda x: x[index], x)
    np.testing.assert_array_equal(y, x[index])
    expected = np.zeros_like(x)
    expected[index] = weight
    np.testing.assert_array_equal(dx.numpy(), expected)


@given(st.data())
def test_integer_array_indexing(data):
    x = numbers(data.draw(FULL_SHAPES))
    result = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=6))
    count = data.draw(st.integers(1, x.ndim))
    index = tuple(
        data.draw(
            hnp.arrays(np.int64, result, elements=st.integers(-n, n - 1))
            if data.draw(st.booleans())
            else st.just(slice(None))
        )
        for n in x.shape[:count]
    )
    y, weight, (dx,) = gradient(lambda x: x[tuple(ie.tensor(i) if isinstance(i, np.ndarray) else i for i in index)], x)
    np.testing.assert_array_equal(y, x[index])
    expected = np.zeros_like(x)
    np.add.at(expected, index, weight)
    np.testing.assert_array_equal(dx.numpy(), expected)


@given(st.data())
def test_boolean_indexing(data):
    x = numbers(data.draw(FULL_SHAPES))
    mask = data.draw(hnp.arrays(np.bool_, x.shape[: data.draw(st.integers(1, x.ndim))]))
    y, weight, (dx,) = gradient(lambda x: x[ie.tensor(mask)], x)
    np.testing.assert_array_equal(y, x[mask])
    expected = np.zeros_like(x)
    expected[mask] = weight
    np.testing.assert_array_equal(dx.numpy(), expected)


@st.composite
def arrays_and_axes(draw):
    x = numbers(draw(FULL_SHAPES))
    axes = draw(st.none() | st.integers(-x.ndim, x.ndim - 1) | hnp.valid_tuple_axes(x.ndim))
    return x, axes, draw(st.booleans())


@given(arrays_and_axes())
def test_reductions(case):
    x, axis, keepdims = case
    for name in ("sum", "mean", "max", "min", "var", "any", "all"):
        ours = getattr(F, name)(
            ie.tensor(x), axis=axis, keepdims=keepdims, **({"correction": 0} if name == "var" else {})
        )
        theirs = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        assert ours.shape == np.shape(theirs)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-12)


@given(arrays_and_axes())
def test_the_extremes_gradient_is_shared_evenly(case):
    x, axis, keepdims = case
    _, weight, (dx,) = gradient(lambda x: x.max(axis, keepdims), x)
    np.testing.assert_allclose(dx.numpy().sum(), weight.sum(), atol=1e-9)
    chosen = x == x.max(axis=axis, keepdims=True)
    assert not dx.numpy()[~chosen].any()


@given(FULL_SHAPES, st.data())
def test_joining_undoes_splitting(shape, data):
    x = numbers(shape)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    size = data.draw(st.integers(1, 6))
    y, weight, (dx,) = gradient(lambda x: F.concatenate(list(F.split(x, size, axis)), axis), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dx.numpy(), weight)
