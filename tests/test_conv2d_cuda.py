"""The convolution's CUDA kernels, run by the simulator: each against the CPU's results in float64."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels

pytestmark = pytest.mark.skipif("sim" not in ie.device.names(), reason="needs the simulator")

TENSOR_CORE, SIMT = "implicit_gemm_tensor_core", "implicit_gemm_simt"
FORWARD, BACKWARD = ("forward",), ("backward_input", "backward_weight")

# x, weight, and what else conv2d is told
SHAPES = {
    "channels that fill packs": ((2, 9, 11, 16), (24, 3, 3, 16), {"padding": 1}),
    "tiles with rests": ((1, 13, 21, 40), (72, 2, 3, 40), {"stride": (2, 3), "dilation": (1, 2), "padding": (1, 2)}),
    "large tiles": ((1, 128, 129, 8), (72, 1, 1, 8), {}),
    "large tiles of inputs": ((1, 128, 129, 72), (8, 1, 1, 72), {}),
    "large tiles of weights": ((1, 5, 5, 72), (136, 2, 2, 72), {"padding": 1}),
    "groups": ((1, 6, 7, 32), (16, 3, 3, 16), {"groups": 2, "padding": 1}),
    "a sum over many pixels": ((3, 24, 24, 8), (16, 3, 3, 8), {"padding": 1}),
    "channels that fill no packs": ((2, 8, 9, 5), (7, 3, 2, 5), {"padding": (1, 0)}),
    "phases without taps": ((1, 9, 10, 8), (8, 1, 2, 8), {"stride": (3, 4)}),
    "a stride and dilation with a common divisor": ((1, 17, 25, 8), (8, 3, 4, 8), {"stride": 4, "dilation": (2, 6)}),
    "padding wider than the kernel": ((1, 3, 2, 8), (8, 2, 2, 8), {"padding": 5}),
    "a stem": ((2, 19, 37, 3), (70, 7, 7, 3), {"stride": 2, "padding": 3}),
    "a grey stem": ((1, 28, 28, 1), (33, 3, 3, 1), {"padding": 1, "dilation": (1, 2)}),
    "depthwise": ((2, 9, 14, 72), (72, 3, 3, 1), {"padding": 1, "groups": 72}),
    "depthwise, stride 2": ((1, 9, 14, 8), (8, 5, 4, 1), {"padding": 2, "groups": 8, "stride": 2}),
    "depthwise with a multiplier": ((2, 9, 8, 5), (15, 3, 3, 1), {"padding": 1, "groups": 5, "stride": (2, 1)}),
}
PAIRS = (("stride", 1), ("padding", 0), ("dilation", 1))
ALGORITHMS = [
    ("bfloat16", "channels that fill packs", FORWARD + BACKWARD, TENSOR_CORE),
    ("float32", "channels that fill packs", FORWARD + BACKWARD, SIMT),
    ("float64", "large tiles", FORWARD + BACKWARD, SIMT),
    ("float16", "channels that fill no packs", FORWARD + BACKWARD, SIMT),
    ("float16", "a stem", FORWARD, "stem"),
    ("float16", "a stem", BACKWARD, SIMT),
    ("float32", "depthwise with a multiplier", FORWARD + BACKWARD, "depthwise"),
]


def numbers(*shape: int, dtype: str, seed: int) -> np.ndarray:
    """Normal numbers that the dtype has, in float64."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return ie.tensor(values, dtype=dtype).numpy().astype(np.float64)


def operands(x_shape, weight_shape, dtype, **arguments):
    x, weight = numbers(*x_shape, dtype=dtype, seed=0), numbers(*weight_shape, dtype=dtype, seed=1)
    bias = numbers(weight_shape[0], dtype=dtype, seed=2)
    y_shape = F.conv2d(ie.tensor(x), ie.tensor(weight), **arguments).shape
    return x, weight, bias, numbers(*y_shape, dtype=dtype, seed=3)


def results(device, dtype, x, weight, bias, dy, **arguments):
    """y and the gradients of x, weight and bias, in float64."""
    inputs = [ie.tensor(array, dtype=dtype, device=device, requires_grad=True) for array in (x, weight, bias)]
    y = F.conv2d(*inputs, **arguments)
    y.backward(ie.tensor(dy, dtype=dtype, device=device))
    return [tensor.numpy().astype(np.float64) for tensor in (y, *(tensor.grad for tensor in inputs))]


def worst_error(found, expected):
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True))


@pytest.fixture
def tf32() -> Iterator[None]:
    ie.set_float32_matmul_precision("high")
    yield
    ie.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_results_are_those_of_the_cpu_in_float64(name, dtype):
    x_shape, weight_shape, arguments = SHAPES[name]
    arrays = operands(x_shape, weight_shape, dtype, **arguments)
    # 16-bit results are rounded once, from sums in float32; those of wider types err with the length of the sum.
    unit = float(ml_dtypes.finfo(np.dtype(dtype)).eps)
    allowed = unit if np.dtype(dtype).itemsize == 2 else 32 * unit
    expected = results("cpu", "float64", *arrays, **arguments)
    assert worst_error(results("sim", dtype, *arrays, **arguments), expected) < allowed


@pytest.mark.parametrize("name", ["tiles with rests", "large tiles", "large tiles of weights", "groups"])
def test_tf32_rounds_factors_only_where_it_is_allowed(name, tf32):
    x_shape, weight_shape, arguments = SHAPES[name]
    arrays = operands(x_shape, weight_shape, "float32", **arguments)
    expected = results("cpu", "float64", *arrays, **arguments)
    kernels.take_algorithms()
    found = results("sim", "float32", *arrays, **arguments)
    assert kernels.take_algorithms() == [TENSOR_CORE]
    assert 1e-5 < worst_error(found[:3], expected[:3]) < 2.0**-10


@pytest.mark.parametrize(("dtype", "name", "passes", "algorithm"), ALGORITHMS)
def test_the_plan_names_its_algorithm(dtype, name, passes, algorithm):
    x_shape, weight_shape, arguments = SHAPES[name]
    module, context = kernels.load("sim")
    stride, padding, dilation = (np.broadcast_to(arguments.get(key, value), 2).tolist() for key, value in PAIRS)
    parameters = module.Conv2dParameters(stride, [(p, p) for p in padding], dilation, arguments.get("groups", 1), "")
    for which in (getattr(module.Conv2dPass, one) for one in passes):
        plan = module.conv2d_plan(context, x_shape, weight_shape, parameters, np.dtype(dtype), which)
        assert plan.algorithm == algorithm


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "sigmoid", "tanh"])
@pytest.mark.parametrize("name", ["channels that fill packs", "channels that fill no packs", "a stem", "depthwise"])
def test_every_epilogue_applies_activations(name, activation):
    x_shape, weight_shape, arguments = SHAPES[name]
    arrays = operands(x_shape, weight_shape, "bfloat16", **arguments)
    expected = results("cpu", "float64", *arrays, activation=activation, **arguments)
    found = results("sim", "bfloat16", *arrays, activation=activation, **arguments)
    assert worst_error(found[:1], expected[:1]) < 2.0**-7
    assert worst_error(found[1:], expected[1:]) < 2.0**-5  # the gradient starts from a rounded result


@pytest.mark.parametrize("name", ["channels that fill packs", "a sum over many pixels", "a stem", "depthwise"])
def test_arrays_may_lie_anywhere(name):
    x_shape, weight_shape, arguments = SHAPES[name]
    x, weight, bias, _ = operands(x_shape, weight_shape, "bfloat16", **arguments)

    def moved(array, elements):
        """A copy that starts so many elements after an aligned address."""
        memory = ie.tensor(np.zeros(array.size + elements), dtype="bfloat16", device="sim")._array[elements:]
        memory[...] = array.reshape(-1)
        return ie.Tensor(memory.reshape(array.shape))

    aligned, elsewhere = (
        F.conv2d(moved(x, n), moved(weight, n), moved(bias, n), **arguments).numpy().astype(np.float64) for n in (0, 1)
    )
    assert worst_error([elsewhere], [aligned]) < 2.0**-7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    x_shape, weight_shape, arguments = SHAPES["a sum over many pixels"]
    arrays = operands(x_shape, weight_shape, dtype, **arguments)
    threads = ie.get_num_threads()
    found = []
    for count in (1, 2):
        ie.set_num_threads(count)
        found.append(results("sim", dtype, *arrays, **arguments))
    ie.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_precision_is_one_of_two_words():
    assert ie.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="precision is 'medium', expected 'highest' or 'high'"):
        ie.set_float32_matmul_precision("medium")
