"""The vectorised functions behind the activations: digits over the whole range, limits, and bits at every place."""

import math

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F

X = np.concatenate([np.linspace(-90, 90, 30_001), np.linspace(-1, 1, 10_001), [0.0, 1e-30, -1e-30]])

EXACT = {
    F.tanh: np.tanh,
    F.sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    F.silu: lambda x: x / (1 + np.exp(-x)),
    F.gelu: np.vectorize(lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)), otypes=[float]),
}


# gelu's tail is exp(-x^2 / 2): relative errors of x / sqrt(2) come out x^2 times as large, up to 180 times.
@pytest.mark.parametrize(("op", "ulps"), [(F.tanh, 2.7), (F.sigmoid, 4), (F.silu, 5), (F.gelu, 200)])
def test_digits_over_the_whole_range(op, ulps):
    x = X.astype(np.float32)
    exact = EXACT[op](x.astype(np.float64))
    error = np.abs(op(ie.tensor(x)).numpy() - exact)
    vanishing = np.finfo(np.float32).tiny * (1 + np.abs(x))  # below the normal numbers 1 / (1 + inf) = 0 is near enough
    np.testing.assert_array_less(error, ulps * np.spacing(np.abs(exact).astype(np.float32)) + vanishing)


@pytest.mark.parametrize("op", EXACT)
def test_float64_digits(op):
    result = op(ie.tensor(X, dtype="float64")).numpy()
    np.testing.assert_allclose(result, EXACT[op](X), rtol=4e-15 if op is not F.gelu else 3e-13, atol=1e-300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinities_and_nan(dtype):
    x = ie.tensor([-np.inf, np.inf, np.nan], dtype=dtype)
    np.testing.assert_array_equal(F.tanh(x).numpy(), [-1, 1, np.nan])
    np.testing.assert_array_equal(F.sigmoid(x).numpy(), [0, 1, np.nan])
    np.testing.assert_array_equal(F.relu(x).numpy(), [0, np.inf, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_is_odd_to_the_last_bit(dtype):
    x = np.concatenate([X[X >= 0], [0.0]]).astype(dtype)
    positive, negative = F.tanh(ie.tensor(x)).numpy(), F.tanh(ie.tensor(-x)).numpy()
    np.testing.assert_array_equal((-negative).view(f"u{x.itemsize}"), positive.view(f"u{x.itemsize}"))


@pytest.mark.parametrize("op", [F.relu, *EXACT])
def test_an_element_has_the_same_bits_wherever_it_lies(op):
    x = np.random.Generator(np.random.Philox(1)).standard_normal(67).astype(np.float32)
    whole = op(ie.tensor(x)).numpy()
    for length in (1, 5, 16, 33):
        np.testing.assert_array_equal(op(ie.tensor(x[-length:])).numpy(), whole[-length:])
