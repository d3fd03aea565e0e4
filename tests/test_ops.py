"""Every row of the op table, on every device present."""

import importlib
import itertools
import pkgutil
import zlib

import numpy as np
import pytest
from op_cases import CASES

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import kernels, ops
from imgrec_engine.dtypes import bfloat16, float16, float32, float64, is_floating
from imgrec_engine.testing import gradcheck

TOLERANCES = {float32: (1.3e-6, 1e-5), float16: (1e-3, 1e-5), bfloat16: (1.6e-2, 1e-5), float64: (1e-11, 1e-11)}
UNIT_ROUNDOFF = {float16: 2.0**-11, bfloat16: 2.0**-8}
LARGEST_GRADCHECK = 2_000  # elements of a sample whose gradient is checked one by one
DIRECTIONS = {"cpu": None, "sim": 2, "cuda": 2}  # for gradcheck: simulated kernels are too slow for every element
THREADS = {"cpu": (1, 2, 3), "sim": (1, 2), "cuda": (1,)}
DEVICES = devices.names()


def rows(calls, dtypes=lambda case: [None]):
    """Parameters (case, call, device), or (case, call, dtype, device), for each call of each row of the table."""
    parameters = []
    for case in CASES:
        for (i, made), dtype, device in itertools.product(enumerate(calls(case)), dtypes(case), DEVICES):
            own = () if dtype is None else (dtype,)
            name = "-".join([case.name, str(i), *(dtype.name for dtype in own), device])
            parameters.append(pytest.param(case, made, *own, device, id=name))
    return parameters


SAMPLES = rows(lambda case: case.samples)
REFUSED = rows(lambda case: case.refused)
DTYPES = rows(lambda case: case.samples, lambda case: case.dtypes)


def test_every_op_has_a_row():
    names = set()
    for module in pkgutil.iter_modules(ops.__path__):
        contents = vars(importlib.import_module(f"imgrec_engine.ops.{module.name}"))
        names |= {name for name, value in contents.items() if getattr(value, "differentiable_op", False)}
    assert names == {case.name for case in CASES}


def draw(given, generator):
    if isinstance(given, list):
        return [draw(item, generator) for item in given]
    return np.asarray(given(generator)) if callable(given) else given


def arguments(case, sample, convert):
    """The sample's arrays, the same at each call, each passed through `convert`."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(case.name.encode())))

    def change(value):
        if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
            return [change(item) for item in value]
        return convert(value) if isinstance(value, np.ndarray) else value

    args = [change(draw(given, generator)) for given in sample.args]
    return args, {name: change(draw(given, generator)) for name, given in sample.kwargs.items()}


def to_tensor(dtype, device="cpu", requires_grad=False):
    def convert(array):
        floating = is_floating(array.dtype)
        return ie.tensor(array, dtype if floating else None, device, requires_grad=requires_grad and floating)

    return convert


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def call(case, args, kwargs):
    case.before()
    outputs = as_tuple(case.op(*args, **kwargs))
    assert {y.device for y in outputs} == {x.device for x in tensors_of(args, kwargs)}
    return outputs


def tensors_of(args, kwargs):
    for value in [*args, *kwargs.values()]:
        yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ie.Tensor))


def forward_and_backward(case, sample, convert):
    """Outputs and gradients as arrays; output i is weighted with fixed numbers."""
    args, kwargs = arguments(case, sample, convert)
    outputs = call(case, args, kwargs)
    generator = np.random.Generator(np.random.Philox(1))
    total = None
    for y in outputs:
        if y.requires_grad:
            part = (y * ie.tensor(generator.standard_normal(y.shape), y.dtype, y.device)).to(float64).sum()
            total = part if total is None else total + part
    if total is not None:
        total.backward()
    inputs = [t for t in tensors_of(args, kwargs) if t.requires_grad]
    gradients = [t.grad for t in inputs]
    assert all(t.grad is None or t.grad.device == t.device for t in inputs)
    return [y.numpy() for y in outputs], [None if g is None else g.numpy() for g in gradients]


def assert_same_bits(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("case", "sample", "dtype", "device"), DTYPES)
def test_values_agree_with_float64(case, sample, dtype, device):
    args, kwargs = arguments(case, sample, to_tensor(dtype, device))
    outputs = call(case, args, kwargs)
    rounded = arguments(case, sample, lambda a: a.astype(dtype).astype(np.float64) if is_floating(a.dtype) else a)
    case.before()
    references = as_tuple(case.reference(*rounded[0], **rounded[1]))
    rtol, atol = (tolerance * max(1.0, case.reduction**0.5) for tolerance in TOLERANCES[dtype])
    for y, reference in zip(outputs, references, strict=True):
        assert y.shape == np.shape(reference)
        assert y.dtype == dtype or not is_floating(y.dtype)
        rounding = UNIT_ROUNDOFF.get(dtype, 0.0) if case.rounds_within and device != "cpu" else 0.0
        within = rounding * np.abs(reference).max(initial=0.0)
        np.testing.assert_allclose(y.numpy().astype(np.float64), reference, rtol=rtol, atol=atol + within)


@pytest.mark.parametrize(("case", "sample", "device"), SAMPLES)
def test_gradients_agree_with_finite_differences(case, sample, device):
    args, kwargs = arguments(case, sample, to_tensor(float64, device, requires_grad=case.differentiable))
    inputs = [t for t in tensors_of(args, kwargs) if t.requires_grad]
    outputs = call(case, args, kwargs)
    assert any(y.requires_grad for y in outputs) == (case.differentiable and bool(inputs))
    if inputs and (DIRECTIONS[device] or sum(t.size for t in inputs) <= LARGEST_GRADCHECK):

        def function(*_):
            return tuple(y for y in call(case, args, kwargs) if y.requires_grad)

        gradcheck(function, inputs, directions=DIRECTIONS[device])


@pytest.mark.parametrize(("case", "sample", "dtype", "device"), [p for p in DTYPES if p.values[0].differentiable])
def test_gradients_agree_with_float64(case, sample, dtype, device):
    _, ours = forward_and_backward(case, sample, to_tensor(dtype, device, requires_grad=True))

    def rounded(array):
        return to_tensor(float64, requires_grad=True)(array.astype(dtype) if is_floating(array.dtype) else array)

    _, references = forward_and_backward(case, sample, rounded)
    rtol, atol = (tolerance * max(1.0, case.reduction**0.5) for tolerance in TOLERANCES[dtype])
    for gradient, reference in zip(ours, references, strict=True):
        if gradient is None:
            assert reference is None
            continue
        # What the forward pass saved in 16 bits carries its rounding into every element: relative to the largest one.
        scale = np.abs(reference).max(initial=0.0)
        np.testing.assert_allclose(gradient.astype(np.float64), reference, rtol=rtol, atol=atol + rtol * scale)


@pytest.mark.parametrize(("case", "sample", "device"), SAMPLES)
def test_float64_values_agree(case, sample, device):
    args, kwargs = arguments(case, sample, to_tensor(float64, device))
    outputs = call(case, args, kwargs)
    plain_args, plain_kwargs = arguments(case, sample, lambda a: a)
    case.before()
    for y, reference in zip(outputs, as_tuple(case.reference(*plain_args, **plain_kwargs)), strict=True):
        np.testing.assert_allclose(y.numpy(), reference, rtol=1e-9, atol=1e-9)


def strided(device):
    """To the same values with gaps between them and, where there are two dimensions, in transposed order."""

    def convert(array):
        if array.ndim == 0:
            return to_tensor(float32, device, requires_grad=True)(array)
        wide = np.repeat(array.astype(float32) if is_floating(array.dtype) else array, 2, axis=-1)
        view = ie.Tensor(ie.tensor(np.ascontiguousarray(wide.T), device=device)._array.T[..., ::2])
        return view.requires_grad_() if is_floating(view.dtype) else view

    return convert


@pytest.mark.parametrize(("case", "sample", "device"), SAMPLES)
def test_strided_inputs_give_the_same(case, sample, device):
    outputs, gradients = forward_and_backward(case, sample, strided(device))
    expected, expected_gradients = forward_and_backward(case, sample, to_tensor(float32, device, requires_grad=True))
    for a, b in zip([*outputs, *gradients], [*expected, *expected_gradients], strict=True):
        if b is not None:  # NumPy sums strided memory in another order
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("case", "sample", "device"), SAMPLES)
def test_bits_do_not_depend_on_threads_or_memory(case, sample, device):
    convert = to_tensor(float32, device, requires_grad=True)
    ie.set_num_threads(1)
    once = forward_and_backward(case, sample, convert)
    pool = kernels.load(device)[0]
    pool.pool_poison(True)
    try:
        for threads in THREADS[device]:
            ie.set_num_threads(threads)
            again = forward_and_backward(case, sample, convert)
            assert_same_bits([*once[0], *once[1]], [*again[0], *again[1]])
    finally:
        pool.pool_poison(False)


@pytest.mark.parametrize(("case", "sample", "device"), [p for p in SAMPLES if p.values[-1] != "cpu"])
def test_no_kernel_of_the_cpu_serves_another_device(case, sample, device, monkeypatch):
    monkeypatch.setitem(kernels._OF_TYPE, np.ndarray, (None, kernels.load("cpu")[1]))
    forward_and_backward(case, sample, to_tensor(float32, device, requires_grad=True))


@pytest.mark.parametrize(("case", "refused", "device"), REFUSED)
def test_bad_arguments_are_refused_by_name(case, refused, device):
    args, kwargs = arguments(case, refused, to_tensor(float32, device))
    with pytest.raises(refused.error, match=refused.words) as caught:
        [output.numpy() for output in call(case, args, kwargs)]  # only then indices on a GPU are checked
    assert case.name in str(caught.value)
