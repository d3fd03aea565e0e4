"""The recurrent kernels of CUDA on the simulator, against the CPU's: every algorithm, machine and dtype."""

import numpy as np
import pytest
from test_recurrent import drawn

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels
from imgrec_engine.simulator import SimArray

CELLS = ("lstm", "gru", "rnn")
# Of the largest number: rounding once, and what a few steps make of it.
TOLERANCE = {"float32": 3e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 1.6e-2}

# Multiprocessors and KB of shared memory; for float64, whose weights are twice as large, twice as much.
MACHINES = {
    "one group of units": (1, 112),
    "two groups of units": (2, 64),
    "many groups of units": (16, 40),
    "samples in parts": (8, 112),
    "stepwise": (1, 20),
}
HIDDEN = {"lstm": 60, "gru": 77, "rnn": 139}


@pytest.fixture
def machine(monkeypatch):
    """Sets the simulated machine's multiprocessors and shared memory."""

    def set_machine(kind, dtype):
        sm_count, kilobytes = MACHINES[kind]
        module, _ = kernels.load("sim")
        shared = kilobytes * (2048 if dtype == "float64" else 1024)
        context = module.Context(threads=1, sm_count=sm_count, max_shared_bytes=shared)
        monkeypatch.setitem(kernels._OF_TYPE, SimArray, (module, context))

    return set_machine


def run(name, arrays, dtype, device, **options):
    """Outputs and gradients of sum(w y) with weights that differ, as float64; and the algorithms planned."""
    inputs = {
        key: None if array is None else ie.tensor(array, dtype=dtype, device=device, requires_grad=True)
        for key, array in arrays.items()
    }
    kernels.take_algorithms()
    outputs = getattr(F, name)(**inputs, **options)
    generator = np.random.Generator(np.random.Philox(3))
    weights = [ie.tensor(generator.uniform(-1, 1, y.shape), dtype=dtype, device=device) for y in outputs]
    sum((y * w).sum() for y, w in zip(outputs, weights, strict=True)).backward()
    results = [*outputs, *(tensor.grad for tensor in inputs.values() if tensor is not None)]
    return [result.numpy().astype(np.float64) for result in results], kernels.take_algorithms()


def assert_close(ours, theirs, dtype):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_every_algorithm_agrees_with_the_cpu(name, kind, dtype, machine):
    machine(kind, dtype)
    arrays = drawn(name, 21, 4, 3, HIDDEN[name])
    options = {"lengths": [4, 1, 3] * 7, "reverse": kind == "stepwise"}
    ours, planned = run(name, arrays, dtype, "sim", **options)
    assert planned == ["stepwise" if kind == "stepwise" else "persistent"]
    assert_close(ours, run(name, arrays, dtype, "cpu", **options)[0], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("lengths", [None, [5, 2, 3] * 24])
def test_sizes_that_tensor_cores_take(name, lengths, dtype):
    arrays = drawn(name, 72, 5, 16, 40)
    ours, _ = run(name, arrays, dtype, "sim", lengths=lengths)
    assert_close(ours, run(name, arrays, dtype, "cpu", lengths=lengths)[0], dtype)


@pytest.mark.parametrize("kind", ["one group of units", "stepwise"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_more_samples_than_lengths_in_a_launch(kind, dtype, machine):
    machine(kind, dtype)
    arrays = drawn("gru", 300, 3, 2, 11)
    options = {"lengths": [1 + i % 3 for i in range(300)], "reverse": True}
    ours, _ = run("gru", arrays, dtype, "sim", **options)
    assert_close(ours, run("gru", arrays, dtype, "cpu", **options)[0], dtype)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("missing", ["bias_ih", "bias_hh", "h_0", "c_0"])
def test_what_is_left_out_counts_as_zero(name, missing):
    arrays = drawn(name, 3, 4, 2, 9) | {missing: None}
    if name != "lstm":
        arrays.pop("c_0", None)
    assert_close(run(name, arrays, "float64", "sim")[0], run(name, arrays, "float64", "cpu")[0], "float64")


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
def test_the_state_between_steps_is_not_rounded(dtype):
    """1 + 2^-14 is neither a float16 nor a tf32 number: a product that sees less than float32 loses the difference."""
    weight_hh, h_0 = np.zeros((3, 3)), np.array([[1, 1, 2**-14]])
    weight_hh[0, [0, 2]] = weight_hh[1, 1] = 1
    weight_hh[2, [0, 1]] = 1, -1
    arrays = {"x": np.zeros((1, 2, 1)), "h_0": h_0, "weight_ih": np.zeros((3, 1)), "weight_hh": weight_hh}
    (output, *_), _ = run("rnn", arrays, dtype, "sim", nonlinearity="relu")
    assert output[0, 1, 2] == 2**-14
