"""The sums of rows by position (csrc/ops/indexing.h) against sums in float64, row after row."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import functional as F
from imgrec_engine import kernels
from imgrec_engine.dtypes import bfloat16, float16, float32, float64
from imgrec_engine.errors import DTypeError, ShapeError

TOLERANCES = {float64: 1e-12, float32: 6e-8, float16: 5e-4, bfloat16: 4e-3}  # one rounding of a sum in float64

# Runs that end with a chunk of 64 or 256 places, cross one or many, fill one exactly, and are short.
RUNS = ([64, 64, 1, 63, 65], [1] * 130, [700], [3, 300, 1, 256, 0, 2], [255, 257, 128], [63, 2, 62, 1, 200], [1])


def add_rows(device, rows, positions, count):
    y = devices.empty_on(device, (count, rows.shape[1]), rows.dtype)
    y.fill(7)
    module, context = kernels.of(y)
    order = np.argsort(positions, kind="stable")
    workspace = np.empty(module.index_add_plan(context, *rows.shape).workspace_bytes, np.uint8)
    module.index_add(context, y, rows, order, positions[order], workspace)
    return np.asarray(y)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("columns", [1, 3, 32, 130])
@pytest.mark.parametrize("runs", RUNS, ids=str)
def test_runs_are_summed(runs, columns, dtype, device):
    generator = np.random.default_rng(0)
    positions = generator.permutation(np.repeat(np.arange(len(runs)) * 2, runs))
    rows = generator.standard_normal((len(positions), columns)).astype(dtype)
    expected = np.zeros((2 * len(runs), columns))
    np.add.at(expected, positions, rows.astype(float64))
    expected[np.setdiff1d(np.arange(2 * len(runs)), positions)] = 7  # rows that no position names stay as they were
    y = add_rows(device, rows, positions, 2 * len(runs))
    tolerance = TOLERANCES[dtype]
    np.testing.assert_allclose(y.astype(float64), expected, rtol=tolerance, atol=1e-12)


def test_rows_with_a_position_that_is_not_there_are_left_out(device):
    positions = np.repeat([-3, -1, 0, 2, 4, 5, 99], [70, 3, 2, 130, 1, 80, 200])
    inside = np.isin(positions, np.arange(5))
    rows = np.random.default_rng(0).standard_normal((len(positions), 3)).astype(np.float32)
    y = add_rows(device, rows, positions, 5)
    np.testing.assert_allclose(y, add_rows(device, rows[inside], positions[inside], 5), rtol=TOLERANCES[float32])


def test_bits_do_not_depend_on_threads(device):
    weight, indices = ie.randn(11, 5, device=device), ie.tensor(np.arange(9000) % 11, device=device)
    dy = ie.randn(9000, 5, device=device)
    results = set()
    for threads in (1, 2, 3):
        ie.set_num_threads(threads)
        table = weight.detach().requires_grad_()
        F.embedding(indices, table).backward(dy)
        results.add(table.grad.numpy().tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_indices_of_any_integer_dtype_have_gradients(dtype, device):
    table = ie.ones((5, 2), device=device, requires_grad=True)
    F.embedding(ie.tensor([4, 0, 4], dtype, device), table).sum().backward()
    np.testing.assert_array_equal(table.grad.numpy(), np.repeat([[1, 0, 0, 0, 2]], 2, 0).T)


def test_bad_arguments_are_refused_by_name(device):
    module, context = kernels.of(devices.empty_on(device, (0,), float32))
    rows, places = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    scratch = np.zeros(1024, np.uint8)
    with pytest.raises(ShapeError, match=r"index_add: y is float32 \(4, 3\), expected \(count, columns\) = \(any, 2\)"):
        module.index_add(context, np.zeros((4, 3), np.float32), rows, places, places, scratch)
    with pytest.raises(DTypeError, match="index_add: order is int32"):
        module.index_add(context, rows.copy(), rows, places.astype(np.int32), places, scratch)
    with pytest.raises(ShapeError, match=r"index_add: positions is int64 \(2,\)"):
        module.index_add(context, rows.copy(), rows, places, places[:2], scratch)
