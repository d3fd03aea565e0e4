"""The recurrent kernels of CUDA on the simulator, against the CPU's: every algorithm, machine and dtype."""

import numpy as np
import pytest
from test_recurrent import drawn

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels
from imgrec_engine.simulator import SimArray
from imgrec_engine.testing import gradcheck

CELLS = ("lstm", "gru", "rnn")
# Of the largest number: rounding once, and what a few steps make of it.
TOLERANCE = {"float32": 3e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 1.6e-2}

# Multiprocessors, shared memory, what is chosen for 100 hidden units.
MACHINES = {
    "persistent, one block": (1, 227 << 10, "persistent"),
    "persistent, two groups of units": (2, 163 << 10, "persistent"),
    "persistent, many groups of units": (16, 48 << 10, "persistent"),
    "stepwise": (2, 40 << 10, "stepwise"),
}


@pytest.fixture
def machine(monkeypatch):
    """Sets the simulated machine's multiprocessors and shared memory."""

    def set_machine(sm_count, max_shared_bytes):
        module, _ = kernels.load("sim")
        context = module.Context(threads=1, sm_count=sm_count, max_shared_bytes=max_shared_bytes)
        monkeypatch.setitem(kernels._OF_TYPE, SimArray, (module, context))
        kernels.take_algorithms()

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
    *extent, algorithm = MACHINES[kind]
    machine(*extent)
    arrays = drawn(name, 5, 4, 3, 100 if name == "lstm" else 140)
    options = {"lengths": [4, 1, 3, 4, 2], "reverse": kind.startswith("stepwise")}
    ours, planned = run(name, arrays, dtype, "sim", **options)
    assert algorithm in planned
    theirs, _ = run(name, arrays, dtype, "cpu", **options)
    assert_close(ours, theirs, dtype)
