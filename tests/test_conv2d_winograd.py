"""The CPU's Winograd kernels: rounding errors, drawn shapes, which convolutions they serve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels

PASSES = ("y", "dx", "dweight", "dbias")
TOLERANCE = {"float32": 1e-5, "float16": 4 * 2.0**-11, "bfloat16": 4 * 2.0**-8}  # of the largest result


def arrays_of(x, weight, padding, dilation=(1, 1)):
    """Normal x, weight, bias and dy, as float32."""
    generator = np.random.default_rng(0)
    extent = [size + 2 * p - d * (k - 1) for size, k, p, d in zip(x[1:3], weight[1:3], padding, dilation, strict=True)]
    shapes = x, weight, weight[:1], (x[0], *extent, weight[0])
    return [generator.standard_normal(shape, np.float32) for shape in shapes]


def run(arrays, padding, dtype="float32", algorithm="winograd", **options):
    *tensors, dy = (ie.tensor(array, dtype=dtype, requires_grad=True) for array in arrays)
    y = F.conv2d(*tensors, padding=padding, algorithm=algorithm, **options)
    y.backward(dy)
    results = y.numpy(), *(tensor.grad.numpy() for tensor in tensors)
    return dict(zip(PASSES, (result.astype(np.float64) for result in results), strict=True))


def summed(terms, shape):
    """The sum of products a * b in one float32 accumulator, each multiply-add rounded once."""
    total = np.zeros(shape, np.float32)
    for a, b in terms:
        total = (total + a.astype(np.float64) * b.astype(np.float64)).astype(np.float32)
    return total


def direct_sums(x, weight, dy):
    """y without bias, dx and dweight of a convolution with padding "same", each element one sum in order."""
    taps, half = weight.shape[1], weight.shape[1] // 2
    height, width = x.shape[1:3]

    def correlate(image, filters):
        padded = np.pad(image, ((0, 0), (half, half), (half, half), (0, 0)))
        terms = (
            (padded[:, i : i + height, j : j + width, c, None], filters[:, i, j, c])
            for i in range(taps)
            for j in range(taps)
            for c in range(image.shape[3])
        )
        return summed(terms, (*image.shape[:3], filters.shape[0]))

    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    pixels = (
        (dy[n, i, j, :, None, None, None], padded[n, i : i + taps, j : j + taps])
        for n in range(x.shape[0])
        for i in range(height)
        for j in range(width)
    )
    turned = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    return {"y": correlate(x, weight), "dx": correlate(dy, turned), "dweight": summed(pixels, weight.shape)}


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        ((2, 24, 24, 16), (16, 3, 3, 16)),
        ((2, 14, 14, 64), (48, 3, 3, 64)),
        ((3, 7, 7, 200), (32, 3, 3, 200)),
        ((2, 15, 14, 16), (24, 5, 5, 16)),
        ((2, 14, 14, 48), (32, 5, 5, 48)),
    ],
)
def test_rounding_errors_are_within_three_times_a_direct_kernels(x, weight):
    half = (weight[1] // 2,) * 2
    x, weight, bias, dy = arrays_of(x, weight, half)
    bias[:] = 0
    exact = run((x, weight, bias, dy), half, "float64", "direct")
    fast = run((x, weight, bias, dy), half)
    for name, direct in direct_sums(x, weight, dy).items():
        error, allowed = np.abs(fast[name] - exact[name]), np.abs(direct - exact[name])
        assert error.max() <= 3 * allowed.max(), name
        assert np.sqrt(np.mean(error**2)) <= 3 * np.sqrt(np.mean(allowed**2)), name


@st.composite
def calls(draw):
    taps = draw(st.sampled_from([3, 3, 5]))
    padding = draw(st.tuples(st.integers(0, taps + 1), st.integers(0, taps + 1)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (2, 1)]))
    size = [draw(st.integers(max(1, d * (taps - 1) + 1 - 2 * p), 19)) for p, d in zip(padding, dilation, strict=True)]
    channels, columns = draw(st.tuples(st.sampled_from([16, 17, 24, 33, 150]), st.sampled_from([16, 19, 32, 49, 130])))
    groups = draw(st.sampled_from([1, 1, 2, 3])) if channels < 100 else 1
    images, filters = (draw(st.integers(1, 3)), *size, groups * channels), (groups * columns, taps, taps, channels)
    return images, filters, padding, {"dilation": dilation, "groups": groups}


@given(calls(), st.sampled_from(tuple(TOLERANCE)), st.sampled_from([None, "tanh", "gelu"]))
def test_agrees_with_the_direct_kernels(call, dtype, activation):
    x, weight, padding, options = call
    arrays = arrays_of(x, weight, padding, options["dilation"])
    arrays[1] /= np.sqrt(np.prod(weight[1:]), dtype=np.float32)  # y is about 1, where activations are curved
    rounded = [ie.tensor(array, dtype=dtype).numpy() for array in arrays]
    exact = run(rounded, padding, "float64", "direct", activation=activation, **options)
    fast = run(rounded, padding, dtype, "winograd", activation=activation, **options)
    for name in PASSES:
        tolerance = TOLERANCE[dtype] * max(1, np.abs(exact[name]).max())
        np.testing.assert_allclose(fast[name], exact[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "weight", "padding"),
    [
        ((3, 41, 37, 17), (35, 3, 3, 17), (1, 0)),  # many tiles: a task is a block of them
        ((2, 9, 8, 150), (70, 3, 3, 150), (1, 1)),  # few: a task is a panel of columns
        ((2, 23, 21, 20), (33, 5, 5, 20), (2, 4)),
        ((1, 14, 15, 20), (30, 3, 3, 20), (1, 1)),  # a panel for several threads is cut by its tiles
    ],
)
def test_bits_do_not_depend_on_threads(x, weight, padding, dtype):
    arrays = arrays_of(x, weight, padding)
    threads = ie.get_num_threads()
    results = []
    for count in (1, 2, 3, 8):
        ie.set_num_threads(count)
        results.append(run(arrays, padding, dtype))
    ie.set_num_threads(threads)
    for name in PASSES:
        assert len({result[name].tobytes() for result in results}) == 1, name


def chosen(x, weight, dtype="float32", **options):
    kernels.take_algorithms()
    F.conv2d(ie.zeros(x, dtype=dtype), ie.zeros(weight, dtype=dtype), **options)
    return kernels.take_algorithms()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_serves_where_it_is_faster(dtype):
    assert chosen((4, 28, 28, 64), (64, 3, 3, 64), dtype, padding=1) == ["winograd"]
    assert chosen((1, 14, 14, 32), (64, 3, 3, 32), dtype, padding=1) == ["winograd"]  # one image
    assert chosen((8, 14, 14, 32), (64, 5, 5, 32), dtype, padding=2) == ["winograd"]
    assert chosen((8, 7, 7, 256), (256, 3, 3, 256), dtype, padding=1) == ["winograd"]
    assert chosen((4, 28, 28, 64), (64, 3, 3, 64), dtype, dilation=(1, 2)) == ["winograd"]
    assert chosen((4, 28, 28, 64), (64, 3, 3, 32), dtype, groups=2) == ["winograd"]


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((4, 28, 28, 64), (64, 3, 3, 64), {"dtype": "float64"}),
        ((4, 28, 28, 64), (64, 3, 3, 64), {"algorithm": "direct"}),
        ((4, 28, 28, 64), (64, 3, 3, 64), {"stride": 2}),
        ((4, 28, 28, 64), (64, 3, 5, 64), {}),
        ((4, 28, 28, 64), (64, 1, 1, 64), {}),
        ((4, 28, 28, 8), (64, 3, 3, 8), {}),
        ((4, 28, 28, 64), (8, 3, 3, 64), {}),
        ((1, 6, 6, 16), (16, 3, 3, 16), {}),  # too few tiles
        ((1, 4, 4, 512), (512, 3, 3, 512), {"padding": 1}),  # transforming the weights would take longer
        ((2, 4, 4, 512), (512, 3, 3, 512), {"padding": 1}),  # and here
        ((32, 2, 2, 256), (256, 3, 3, 256), {"padding": 1}),  # three quarters of each tile would be wasted
    ],
)
def test_direct_kernels_serve_the_rest(x, weight, options):
    assert chosen(x, weight, **options) == ["direct"]


def test_narrow_groups_have_kernels_of_their_own():
    assert chosen((4, 28, 28, 64), (64, 3, 3, 2), groups=32) == ["grouped"]  # fewer than any level's vector holds


@pytest.mark.parametrize("options", [{"stride": 2}, {"groups": 2}, {"dtype": "float64"}])
def test_refuses_what_it_cannot_serve(options):
    weight = (16, 3, 3, 16 // options.get("groups", 1))
    with pytest.raises(ValueError, match="algorithm is 'winograd', which serves stride 1"):
        chosen((1, 8, 8, 16), weight, **options, algorithm="winograd")


def test_an_empty_batch_is_served():
    x = ie.zeros((0, 8, 8, 16), requires_grad=True)
    weight = ie.ones((16, 3, 3, 16), requires_grad=True)
    y = F.conv2d(x, weight, algorithm="winograd")
    y.backward(ie.zeros(y.shape))
    assert y.shape == (0, 6, 6, 16)
    assert not weight.grad.numpy().any()
