"""Running statistics, and accuracy where the mean is large."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.dtypes import bfloat16, float16, float32, float64
from imgrec_engine.errors import AutogradError, ShapeError


@pytest.mark.parametrize("dtype", [float32, float64, float16, bfloat16], ids=str)
@pytest.mark.parametrize("statistics_dtype", [float32, float16], ids=str)
def test_running_statistics_move_towards_those_of_the_batch(dtype, statistics_dtype, device):
    x = np.random.default_rng(0).standard_normal((6, 50, 5)).astype(dtype)
    mean, var = (full(5, dtype=statistics_dtype, device=device) for full in (ie.zeros, ie.ones))
    F.batch_norm(ie.tensor(x, device=device), mean, var, None, None, training=True, momentum=0.25)
    wide = x.astype(float64)
    tolerance = 2e-7 if statistics_dtype == float32 else 1e-3
    np.testing.assert_allclose(mean.numpy(), 0.25 * wide.mean((0, 1)), atol=tolerance)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * wide.var((0, 1), ddof=1), rtol=2 * tolerance)
    before = mean.numpy().copy()
    F.batch_norm(ie.tensor(x, device=device), mean, var, None, None, training=False)
    np.testing.assert_array_equal(mean.numpy(), before)


def test_the_write_to_running_statistics_counts():
    mean, var = ie.zeros(2), ie.ones(2)
    product = mean * ie.ones(2, requires_grad=True)
    F.batch_norm(ie.ones((3, 2)), mean, var, None, None, training=True)
    with pytest.raises(AutogradError, match="changed in place"):
        product.sum().backward()
    with pytest.raises(AutogradError, match="batch_norm: this tensor requires a gradient"):
        F.batch_norm(ie.ones((3, 2)), mean.detach().requires_grad_(), var, None, None, training=True)


def test_running_statistics_may_be_absent_in_training_only():
    x = ie.tensor([[1.0], [3.0]])
    np.testing.assert_allclose(F.batch_norm(x, None, None, None, None, True).numpy().ravel(), [-1, 1], rtol=1e-5)
    with pytest.raises(ValueError, match="batch_norm: running_mean and running_var are None"):
        F.batch_norm(x, None, None, None, None, False)
    with pytest.raises(ShapeError, match=r"batch_norm: running_var is float32 \(3,\), expected \(columns,\) = \(1,\)"):
        F.batch_norm(x, ie.zeros(1), ie.zeros(3), None, None, True)


@pytest.mark.parametrize("shape", [(3000, 24), (70, 300)])
def test_a_large_mean_costs_no_accuracy(shape, device):
    x = (1e4 + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    wide = x.astype(np.float64)

    def normalised(axis):
        return (wide - wide.mean(axis, keepdims=True)) / np.sqrt(wide.var(axis, keepdims=True) + 1e-5)

    # The saved mean is a float32 number: its rounding, half a unit in the last place of 1e4, is all that is lost.
    rounding = 1e4 * 2.0**-24 * 1.5
    y = F.batch_norm(ie.tensor(x, device=device), None, None, None, None, True).numpy()
    np.testing.assert_allclose(y, normalised(0), atol=rounding)
    np.testing.assert_allclose(F.layer_norm(ie.tensor(x, device=device)).numpy(), normalised(1), atol=2 * rounding)
