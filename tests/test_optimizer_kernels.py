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
NINE_TENTHS = np.array([0.9])  # momentum or beta1


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
    buffers = [buffer_of(p)] if momentum else []
    rates = np.array([0.1]), np.array([momentum])
    for gradient in gradients:
        module.sgd_update(context, [p], buffers, [gradient], None, *rates, 0.01, nesterov)
    assert_near(p, expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(dtype, decoupled, kernel):
    module, context = kernel
    p, *gradients = draw(dtype)
    options = (NINE_TENTHS, 0.999, 1e-8, 0.1, decoupled)
    expected = reference_adam(p.astype(float64), [g.astype(float64) for g in gradients], 0.01, *options)
    m, v, step = buffer_of(p), buffer_of(p), np.array(0)
    for gradient in gradients:
        module.adam_update(context, [p], [m], [v], [step], [gradient], None, np.array([0.01]), *options)
    assert_near(p, expected)
    assert step == STEPS


# More than one launch takes, empty ones, one that ends between two chunks, and one that is not aligned for packs.
SIZES = (0, 5, 4096, 0, 8193, *range(1, 70), 20_000, 0)


def many(dtype, seed):
    """A list of arrays, some of which begin in the midst of memory."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(size + place % 3).astype(dtype)[place % 3 :] for place, size in enumerate(SIZES)]


def copies(arrays):
    return [array.copy() for array in arrays]


@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_many_arrays_at_once_are_what_each_is_alone(dtype, kernel):
    module, context = kernel
    rate, gradients = np.array([0.01]), many(dtype, 1)
    adam, sgd = (NINE_TENTHS, 0.999, 1e-8, 0.1, True), (NINE_TENTHS, 0.1, True)
    steps = [np.array(place) for place in range(len(SIZES))]
    arrays = [many(dtype, 0), *([buffer_of(p) for p in gradients] for _ in range(3)), steps]
    alone = [copies(each) for each in arrays]
    module.sgd_update(context, arrays[0], arrays[3], gradients, None, rate, *sgd)
    module.adam_update(context, *arrays[:3], steps, gradients, None, rate, *adam)
    for place, gradient in enumerate(gradients):
        p, m, v, b, step = ([each[place]] for each in alone)
        module.sgd_update(context, p, b, [gradient], None, rate, *sgd)
        module.adam_update(context, p, m, v, step, [gradient], None, rate, *adam)
    for together, single in zip(arrays, alone, strict=True):
        assert [array.tobytes() for array in together] == [array.tobytes() for array in single]
    assert [int(step) for step in steps] == list(range(1, 1 + len(SIZES)))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nothing_changes_where_the_flag_is_set(dtype, momentum, kernel):
    module, context = kernel
    rate, gradients = np.array([0.01]), many(dtype, 1)
    steps = [np.array(place) for place in range(len(SIZES))]
    arrays = [many(dtype, 0), *([buffer_of(p) + 1 for p in gradients] for _ in range(3)), steps]

    def update(arrays, skip):
        parameters, exp_avgs, exp_avg_sqs, momentum_buffers, steps = arrays
        buffers = momentum_buffers if momentum else []
        module.sgd_update(context, parameters, buffers, gradients, skip, rate, np.array([momentum]), 0.1, False)
        adam = (NINE_TENTHS, 0.999, 1e-8, 0.1, True)
        module.adam_update(context, parameters, exp_avgs, exp_avg_sqs, steps, gradients, skip, rate, *adam)
        return [[array.tobytes() for array in each] for each in arrays]

    before = [[array.tobytes() for array in each] for each in arrays]
    assert update([copies(each) for each in arrays], np.array([True])) == before
    unflagged = update([copies(each) for each in arrays], None)
    assert update([copies(each) for each in arrays], np.array([False])) == unflagged
    assert all(after != then for after, then in zip(unflagged[:3], before[:3], strict=True))


def squared_norm(module, context, arrays):
    out = np.full(3, np.nan)
    plan = module.squared_norm_plan(context, arrays)
    module.squared_norm(context, out[1:2], arrays, np.empty(plan.workspace_bytes, np.uint8))
    assert np.isnan(out[[0, 2]]).all()
    return out[1]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("sizes", [(0,), (1,), (16,), (SIZE,), SIZES], ids=lambda sizes: f"{len(sizes)}x{max(sizes)}")
def test_squared_norm_and_scaling(dtype, sizes, kernel):
    module, context = kernel
    arrays = [array[: sizes[0]] for array in draw(dtype)[:1]] if len(sizes) == 1 else many(dtype, 0)
    expected = sum((array.astype(float64) ** 2).sum() for array in arrays)
    np.testing.assert_allclose(squared_norm(module, context, arrays), expected, rtol=1e-13)
    scaled = [(array.astype(float64) * 0.25).astype(dtype) for array in arrays]
    module.scale_in_place(context, arrays, np.array([0.25]))
    for array, wanted in zip(arrays, scaled, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_bits_do_not_depend_on_threads(kernel):
    module, context = kernel
    results = []
    for threads in (1, 2, 3):
        ie.set_num_threads(threads)
        p, gradient, *others = draw(float32)
        m, v, rate = buffer_of(p), buffer_of(p), np.array([0.01])
        adam = (NINE_TENTHS, 0.999, 1e-8, 0.1, True)
        module.adam_update(context, [p], [m], [v], [np.array(0)], [gradient], None, rate, *adam)
        module.sgd_update(context, [p], [m], [gradient], None, rate, NINE_TENTHS, 0.1, True)
        norm = squared_norm(module, context, [p, *others])
        results.append(p.tobytes() + m.tobytes() + v.tobytes() + norm.tobytes())
    assert len(set(results)) == 1


def test_bad_arguments_are_refused_by_name(kernel):
    module, context = kernel
    p, rate, step = np.zeros(4, np.float32), np.array([0.1]), np.array(0)
    half = p.astype(float16)
    sgd, adam = (NINE_TENTHS, 0.0, False), (NINE_TENTHS, 0.999, 1e-8, 0.0, True)
    with pytest.raises(ShapeError, match="sgd_update: parameters is an empty list"):
        module.sgd_update(context, [], [], [], None, rate, *sgd)
    with pytest.raises(DTypeError, match=r"sgd_update: parameters\[1\] is float16 \(4,\), expected float32"):
        module.sgd_update(context, [p, half], [], [p, half], None, rate, *sgd)
    with pytest.raises(ShapeError, match="sgd_update: gradients has 1 arrays, but parameters has 2"):
        module.sgd_update(context, [p, p], [], [p], None, rate, *sgd)
    with pytest.raises(DTypeError, match=r"sgd_update: gradients\[0\] is float16"):
        module.sgd_update(context, [p], [], [half], None, rate, *sgd)
    with pytest.raises(ShapeError, match=r"sgd_update: gradients\[1\] is float32 \(5,\), but parameters\[1\] is"):
        module.sgd_update(context, [p, p], [], [p, np.zeros(5, np.float32)], None, rate, *sgd)
    with pytest.raises(DTypeError, match=r"sgd_update: momentum_buffers\[0\] is float16"):
        module.sgd_update(context, [half], [half], [half], None, rate, *sgd)
    with pytest.raises(ShapeError, match=r"adam_update: exp_avg_sqs\[0\] is float32 \(3,\)"):
        module.adam_update(context, [p], [p.copy()], [np.zeros(3, np.float32)], [step], [p], None, rate, *adam)
    with pytest.raises(DTypeError, match=r"adam_update: steps\[0\] is float64"):
        module.adam_update(context, [p], [p.copy()], [p.copy()], [np.array(0.0)], [p], None, rate, *adam)
    with pytest.raises(ShapeError, match="adam_update: learning_rate is"):
        module.adam_update(context, [p], [p.copy()], [p.copy()], [step], [p], None, np.zeros(3), *adam)
    with pytest.raises(DTypeError, match="sgd_update: momentum is float32"):
        module.sgd_update(context, [p], [], [p], None, rate, np.ones(1, np.float32), 0.0, False)
    with pytest.raises(ShapeError, match=r"adam_update: beta1 is float64 \(\)"):
        module.adam_update(context, [p], [p], [p], [step], [p], None, rate, np.array(0.9), *adam[1:])
    with pytest.raises(DTypeError, match="sgd_update: skip is uint8"):
        module.sgd_update(context, [p], [], [p], np.zeros(1, np.uint8), rate, *sgd)
    with pytest.raises(ShapeError, match=r"adam_update: skip is bool \(2,\)"):
        module.adam_update(context, [p], [p.copy()], [p.copy()], [step], [p], np.zeros(2, bool), rate, *adam)
    with pytest.raises(ShapeError, match=r"adam_update: parameters\[0\] must be contiguous"):
        module.adam_update(context, [np.zeros(8, np.float32)[::2]], [p], [p], [step], [p], None, rate, *adam)
    with pytest.raises(DTypeError, match="squared_norm: workspace is None"):
        module.squared_norm(context, np.zeros(1), [p], None)
    with pytest.raises(DTypeError, match="scale_in_place: factor is float32"):
        module.scale_in_place(context, [p], np.ones(1, np.float32))
