"""The update kernels of csrc/ops/optimizer.h against their formulas in float64."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import kernels
from imgrec_engine.dtypes import bfloat16, float16, float32, float64
from imgrec_engine.errors import DTypeError, ShapeError

SIZE = 40_001  # three tasks, the last one short of a vector
TOLERANCES = {float64: 1e-13, float32: 5e-7, float16: 1e-3, bfloat16: 8e-3}
STEPS = 3


@pytest.fixture
def kernel(device):
    """The module and context of a device."""
    return kernels.of(devices.empty_on(device, (0,), float32))


def draw(dtype, size=SIZE):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(size).astype(dtype) for _ in range(1 + STEPS)]


def buffer_of(parameter):
    return np.zeros(parameter.shape, float64 if parameter.dtype == float64 else float32)


def reference_sgd(p, gradients, learning_rate, momentum, weight_decay, nesterov):
    b = np.zeros(p.shape)
    for gradient in gradients:
        g = gradient + weight_decay * p
        b = momentum * b + g
        p = p - learning_rate * (g + momentum * b if nesterov else b)
    return p


def reference_adam(p, gradients, learning_rate, beta1, beta2, eps, weight_decay, decoupled):
    m, v = np.zeros(p.shape), np.zeros(p.shape)
    for step, gradient in enumerate(gradients, start=1):
        g = gradient if decoupled else gradient + weight_decay * p
        p = p * (1 - learning_rate * weight_decay) if decoupled else p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - learning_rate * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    return p


def assert_near(ours, reference):
    tolerance = TOLERANCES[ours.dtype] * STEPS
    np.testing.assert_allclose(ours.astype(float64), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_follows_its_formula(dtype, momentum, nesterov, kernel):
    module, context = kernel
    p, *gradients = draw(dtype)
    expected = reference_sgd(p.astype(float64), [g.astype(float64) for g in gradients], 0.1, momentum, 0.01, nesterov)
    state, buffer = np.array([0.1, 1.0]), buffer_of(p) if momentum else None
    for gradient in gradients:
        module.sgd_update(context, p, buffer, gradient, state, momentum, 0.01, nesterov)
    assert_near(p, expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(dtype, decoupled, kernel):
    module, context = kernel
    p, *gradients = draw(dtype)
    options = (0.9, 0.999, 1e-8, 0.1, decoupled)
    expected = reference_adam(p.astype(float64), [g.astype(float64) for g in gradients], 0.01, *options)
    m, v = buffer_of(p), buffer_of(p)
    for step, gradient in enumerate(gradients, start=1):
        module.adam_update(context, p, m, v, gradient, np.array([0.01, step]), *options)
    assert_near(p, expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 16, SIZE])
def test_squared_norm_and_scaling(dtype, size, kernel):
    module, context = kernel
    values = draw(dtype, size)[0]
    out = np.full(3, np.nan)
    plan = module.squared_norm_plan(context, size)
    module.squared_norm(context, out[1:2], values, np.empty(plan.workspace_bytes, np.uint8))
    np.testing.assert_allclose(out[1], (values.astype(float64) ** 2).sum(), rtol=1e-13)
    assert np.isnan(out[[0, 2]]).all()
    expected = values.astype(float64) * 0.25
    module.scale_in_place(context, values, np.array([0.25]))
    np.testing.assert_array_equal(values, expected.astype(dtype))


def test_bits_do_not_depend_on_threads(kernel):
    module, context = kernel
    results = []
    for threads in (1, 2, 3):
        ie.set_num_threads(threads)
        p, gradient, *_ = draw(float32)
        m, v, norm = buffer_of(p), buffer_of(p), np.empty(1)
        module.adam_update(context, p, m, v, gradient, np.array([0.01, 1]), 0.9, 0.999, 1e-8, 0.1, True)
        module.sgd_update(context, p, m, gradient, np.array([0.01, 1]), 0.9, 0.1, True)
        workspace = np.empty(module.squared_norm_plan(context, p.size).workspace_bytes, np.uint8)
        module.squared_norm(context, norm, p, workspace)
        results.append(p.tobytes() + m.tobytes() + v.tobytes() + norm.tobytes())
    assert len(set(results)) == 1


def test_bad_arguments_are_refused_by_name(kernel):
    module, context = kernel
    p, state = np.zeros(4, np.float32), np.array([0.1, 1.0])
    half = p.astype(float16)
    with pytest.raises(DTypeError, match="sgd_update: gradient is float16"):
        module.sgd_update(context, p, None, half, state, 0.0, 0.0, False)
    with pytest.raises(ShapeError, match=r"sgd_update: gradient is float32 \(5,\)"):
        module.sgd_update(context, p, None, np.zeros(5, np.float32), state, 0.0, 0.0, False)
    with pytest.raises(DTypeError, match="sgd_update: momentum_buffer is float16"):
        module.sgd_update(context, half, half, half, state, 0.9, 0.0, False)
    with pytest.raises(ShapeError, match=r"adam_update: exp_avg_sq is float32 \(3,\)"):
        module.adam_update(context, p, p.copy(), np.zeros(3, np.float32), p, state, 0.9, 0.999, 1e-8, 0.0, True)
    with pytest.raises(ShapeError, match="adam_update: state is"):
        module.adam_update(context, p, p.copy(), p.copy(), p, np.zeros(3), 0.9, 0.999, 1e-8, 0.0, True)
    with pytest.raises(ShapeError, match="adam_update: parameter must be contiguous"):
        module.adam_update(context, np.zeros(8, np.float32)[::2], p, p, p, state, 0.9, 0.999, 1e-8, 0.0, True)
    with pytest.raises(DTypeError, match="squared_norm: workspace is None"):
        module.squared_norm(context, np.zeros(1), p, None)
    with pytest.raises(DTypeError, match="scale_in_place: factor is float32"):
        module.scale_in_place(context, p, np.ones(1, np.float32))
