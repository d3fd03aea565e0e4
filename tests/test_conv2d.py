"""conv2d beyond the samples of the op table: drawn shapes, exact sums, and PyTorch as a second opinion."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_cases.conv2d import conv2d as reference

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import OutOfMemoryError

PASSES = ("y", "dx", "dweight", "dbias")


@dataclass(frozen=True)
class Call:
    """One convolution, its data a function of the seed."""

    x: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def options(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def integers(self):
        """Whole numbers so small that every sum is exact in float32, whatever its order."""
        generator = np.random.default_rng(0)
        return [generator.integers(-4, 5, shape).astype(np.float64) for shape in (self.x, self.weight, self.weight[:1])]


@st.composite
def calls(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 16]))
    group_in, group_out = draw(st.sampled_from([(1, 1), (1, 2), (3, 2), (2, 17), (20, 5), (37, 2), (1, 35), (32, 9)]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation = draw(two), draw(two)
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    spare = draw(st.sampled_from([3, 18]))  # few pixels have kernels of their own
    size = [draw(st.integers(least, least + spare)) for least in reach]
    batch = draw(st.integers(1, 3))
    return Call(
        (batch, *size, groups * group_in),
        (groups * group_out, *kernel, group_in),
        stride,
        padding,
        dilation,
        groups,
    )


def run(call, arrays, dtype, **more):
    """y and the three gradients for the gradient dy = y rounded to small whole numbers."""
    tensors = [ie.tensor(array, dtype=dtype, requires_grad=True) for array in arrays]
    y = F.conv2d(*tensors, **call.options(), **more)
    dy = np.mod(y.numpy().astype(np.float64), 5) - 2
    y.backward(ie.tensor(dy, dtype=dtype))
    return dict(zip(PASSES, (y.numpy(), *(tensor.grad.numpy() for tensor in tensors)), strict=True)), dy


@given(calls())
def test_whole_numbers_are_exact(call):
    arrays = call.integers()
    ours, _ = run(call, arrays, "float32", algorithm="direct")
    np.testing.assert_array_equal(ours["y"], reference(*arrays, **call.options()))
    exact, _ = run(call, arrays, "float64", algorithm="direct")
    for name in PASSES:
        np.testing.assert_array_equal(ours[name], exact[name], err_msg=name)


@given(calls())
def test_gradients_are_the_adjoints(call):
    """<dy, conv(v, w)> is <dx, v> for any v, and <dweight, v> for weights v: exactly, in whole numbers."""
    x, weight, bias = call.integers()
    ours, dy = run(call, (x, weight, bias), "float64")
    v = np.random.default_rng(1).integers(-3, 4, x.shape).astype(np.float64)
    assert (dy * reference(v, weight, **call.options())).sum() == (ours["dx"] * v).sum()
    v = np.random.default_rng(2).integers(-3, 4, weight.shape).astype(np.float64)
    assert (dy * reference(x, v, **call.options())).sum() == (ours["dweight"] * v).sum()
    np.testing.assert_array_equal(ours["dbias"], dy.sum((0, 1, 2)))


@given(calls(), st.sampled_from(["float32", "bfloat16"]))
def test_bits_do_not_depend_on_threads(call, dtype):
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(array.shape) for array in call.integers()]
    results = []
    for threads in (1, 2):
        ie.set_num_threads(threads)
        results.append(run(call, arrays, dtype)[0])
    for name in PASSES:
        assert results[0][name].tobytes() == results[1][name].tobytes(), name


@given(calls())
def test_agrees_with_torch(call):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(array.shape).astype(np.float32) for array in call.integers()]
    ours, dy = run(call, arrays, "float32")
    x, weight, bias = (torch.from_numpy(array).requires_grad_() for array in arrays)
    y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, **call.options())
    y = y.permute(0, 2, 3, 1)
    y.backward(torch.from_numpy(dy.astype(np.float32)))
    theirs = dict(zip(PASSES, (y.detach(), x.grad, weight.grad, bias.grad), strict=True))
    for name in PASSES:
        expected = theirs[name].numpy()
        scale = np.abs(expected).max(initial=1e-3)
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_long_sums_keep_their_digits():
    """Gradients of weights and bias sum 65,536 numbers of one sign: one float32 accumulator would lose three digits."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0.5, 1.5, (16, 64, 64, 2))
    weight = np.ones((3, 1, 1, 2))
    gradients = {}
    for dtype in ("float32", "float64"):
        tensors = [ie.tensor(array, dtype=dtype, requires_grad=True) for array in (x, weight, np.zeros(3))]
        F.conv2d(*tensors).backward(ie.tensor(np.full((16, 64, 64, 3), 0.1), dtype=dtype))
        gradients[dtype] = [tensor.grad.numpy() for tensor in tensors[1:]]
    for single, double in zip(gradients["float32"], gradients["float64"], strict=True):
        np.testing.assert_allclose(single, double, rtol=2e-6)


def test_only_what_is_needed_is_computed():
    x, weight, bias = ie.ones((1, 3, 3, 2)), ie.ones((1, 2, 2, 2), requires_grad=True), ie.ones(1)
    F.conv2d(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    assert bias.grad is None


def test_same_padding_keeps_the_size():
    x = ie.ones((1, 5, 8, 1))
    y = F.conv2d(x, ie.ones((1, 4, 2, 1)), padding="same", dilation=(1, 3))
    assert y.shape == (1, 5, 8, 1)
    # One row and column is padded before, two after: the taps of the first output reach rows 0 to 2 and column 2.
    assert y.numpy()[0, 0, 0, 0] == 3


def test_strides_and_padding_beyond_the_image():
    x = ie.ones((1, 2, 2, 1), requires_grad=True)
    y = F.conv2d(x, ie.ones((1, 1, 1, 1)), stride=2**31, padding=1)
    assert y.shape == (1, 1, 1, 1)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((1, 2, 2, 1)))
    with pytest.raises(OutOfMemoryError):
        F.conv2d(x, ie.ones((1, 1, 1, 1)), stride=2**31, padding=2**31)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_without_filters_has_a_gradient_of_zero(groups):
    x, weight = ie.ones((1, 5, 5, 4), requires_grad=True), ie.ones((0, 3, 3, 4 // groups), requires_grad=True)
    y = F.conv2d(x, weight, groups=groups)
    y.sum().backward()
    assert y.shape == (1, 3, 3, 0)
    assert weight.grad.shape == weight.shape
    np.testing.assert_array_equal(x.grad.numpy(), 0)
