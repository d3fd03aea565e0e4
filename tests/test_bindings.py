"""The compiled module called directly: whatever is passed, the answer is a result or a typed error, never a crash."""

import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import _cpu
from imgrec_engine.errors import DTypeError, ShapeError

FLOAT32 = np.dtype(np.float32)
BYTES = np.dtype(np.uint8)
context = _cpu.Context(threads=2)


def relu(y, x):
    _cpu.activation_forward(context, y, x, "relu")
    return y


def misaligned(count):
    return np.zeros(4 * count + 1, np.uint8)[1:].view(np.float32)


def test_a_read_only_array_is_not_written():
    y = np.zeros(4, np.float32)
    y.flags.writeable = False
    with pytest.raises(ShapeError, match=r"float32 \(4,\) is to be written, but it is read-only"):
        relu(y, np.ones(4, np.float32))
    assert not y.any()
    np.testing.assert_array_equal(relu(np.ones(4, np.float32), y), y)  # to read it is allowed


@pytest.mark.parametrize("order", [">", "<"])
def test_numbers_of_another_byte_order_are_refused(order):
    x = np.ones(4, np.dtype(np.float32).newbyteorder(order))
    if x.dtype.isnative:
        assert relu(np.empty(4, np.float32), x).sum() == 4
    else:
        with pytest.raises(DTypeError, match="machine's byte order"):
            relu(np.empty(4, np.float32), x)


def test_misaligned_arrays_are_added_and_summed_at_any_size():
    """Large ones by NumPy, too."""
    for rows in (2, 2000):
        x = misaligned(32 * rows).reshape(rows, 32)
        x[:] = 1
        for total in (ie.functional.add(x, np.ones(32, np.float32)), ie.functional.add(np.ones_like(x), x[0])):
            assert (total.numpy() == 2).all()
        assert (ie.functional.sum(x, axis=0).numpy() == rows).all()


def test_misaligned_arrays_are_refused():
    for y, x in [(misaligned(4), np.ones(4, np.float32)), (np.ones(4, np.float32), misaligned(4))]:
        with pytest.raises(ShapeError, match="multiples of their size"):
            relu(y, x)
    a = np.zeros(4, np.dtype([("head", np.uint8, 6), ("value", np.float32)]))["value"].reshape(1, 1, 4)
    with pytest.raises(ShapeError, match="multiples of their size"):
        _cpu.matmul(
            context,
            np.zeros((1, 1, 1), np.float32),
            a,
            np.zeros((1, 4, 1), np.float32),
            None,
            None,
            None,
            "",
            None,
        )


def test_arrays_that_do_not_lie_row_by_row_are_refused():
    for x in (np.ones(8, np.float32)[::2], np.ones(4, np.float32)[::-1], np.ones((2, 2), np.float32).T):
        with pytest.raises(ShapeError, match="contiguous"):
            relu(np.empty(x.shape, np.float32), x)


def test_negative_strides_are_read_where_strides_are_allowed():
    a = np.arange(6, dtype=np.float32).reshape(1, 2, 3)[:, ::-1, ::-1]
    b = np.arange(12, dtype=np.float32).reshape(1, 3, 4)[:, :, ::-1]
    plan = _cpu.matmul_plan(context, 1, 2, 4, 3, FLOAT32)
    packed, workspace = (_cpu.empty((size,), BYTES) for size in (plan.packed_bytes, plan.workspace_bytes))
    c = np.empty((1, 2, 4), np.float32)
    _cpu.matmul_pack(context, packed, b, 2)
    _cpu.matmul(context, c, a, b, packed, None, None, "", workspace)
    np.testing.assert_array_equal(c, a @ b)


def test_no_dimensions_and_too_many():
    assert relu(np.empty((), np.float32), np.array(-2, np.float32)) == 0
    x = np.ones((1,) * 8, np.float32)
    assert relu(np.empty_like(x), x).sum() == 1
    with pytest.raises(ShapeError, match="9 dimensions, expected at most 8"):
        relu(np.empty((1,) * 9, np.float32), np.ones((1,) * 9, np.float32))


def test_other_dtypes_and_objects_are_refused():
    for dtype in (np.int16, np.complex64, object, ml_dtypes.float8_e4m3fn):
        with pytest.raises(DTypeError):
            relu(np.empty(2, np.float32), np.zeros(2, dtype))
    for thing in ([1.0], 1.0, "x", object()):
        with pytest.raises(TypeError):
            relu(np.empty(1, np.float32), thing)
    with pytest.raises(DTypeError, match="None"):
        relu(np.empty(1, np.float32), None)


def test_places_of_parameters_are_counted_from_the_first():
    with pytest.raises(TypeError):
        _cpu.tensor_taker([(-1, False, False)])
    assert _cpu.tensor_taker([(2**64 - 1, False, True)])([1], {}) == ([None], [], None, ())


@pytest.mark.parametrize("threads", [0, -1, 2**31 - 1])
def test_the_number_of_threads_is_checked(threads):
    with pytest.raises(ValueError, match="threads is"):
        _cpu.Context(threads=threads)


def test_memory_for_a_kernel_is_checked():
    a = np.ones((1, 8, 8), np.float32)
    plan = _cpu.matmul_plan(context, 1, 8, 8, 8, FLOAT32)

    def multiply(packed, workspace):
        _cpu.matmul(context, np.empty_like(a), a, a, packed, None, None, "", workspace)

    enough = [_cpu.empty((size,), BYTES) for size in (plan.packed_bytes, plan.workspace_bytes)]
    for place, name in enumerate(["packed", "workspace"]):
        size = enough[place].size
        for memory, message in [
            (np.empty(size - 1, np.uint8), f"{name} has"),
            (_cpu.empty((size + 64,), BYTES)[1:], f"{name} must be aligned"),
            (_cpu.empty((2 * size,), BYTES)[::2], f"{name} must be contiguous"),
        ]:
            with pytest.raises(ShapeError, match=message):
                multiply(*(memory if i == place else enough[i] for i in range(2)))
        with pytest.raises(DTypeError, match=f"{name} is None"):
            multiply(*(None if i == place else enough[i] for i in range(2)))
    with pytest.raises(ShapeError, match="packed has"):
        _cpu.matmul_pack(context, enough[0][:-1], a, 8)


def conv2d_plan(
    x=(1, 4, 4, 1), weight=(1, 3, 3, 1), stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1
):
    parameters = _cpu.Conv2dParameters(stride, padding, dilation, groups, "")
    return _cpu.conv2d_plan(context, x, weight, parameters, FLOAT32, _cpu.Conv2dPass.forward)


HUGE = 2**63 - 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": (1, HUGE, 4, 1)},
        {"x": (1, -4, 4, 1)},
        {"x": (HUGE, 4, 4, HUGE), "weight": (1, 3, 3, HUGE)},
        {"weight": (1, HUGE, 3, 1)},
        {"weight": (1, 0, 3, 1)},
        {"stride": (0, 1)},
        {"stride": (HUGE, 1)},
        {"padding": ((HUGE, HUGE), (0, 0))},
        {"padding": ((-1, 0), (0, 0))},
        {"padding": ((2**31, 2**31), (2**31, 2**31))},
        {"dilation": (HUGE, 1)},
        {"dilation": (0, 1)},
        {"groups": 0},
        {"groups": -1},
    ],
    ids=str,
)
def test_extents_of_convolution_that_cannot_be(arguments):
    with pytest.raises((ShapeError, MemoryError)):
        conv2d_plan(**arguments)


def test_images_without_channels_are_done_at_once_however_many_pixels_they_have():
    x = np.empty((1, 2**16, 2**16, 0), np.float32)  # a loop over its pixels would take seconds
    start = time.monotonic()
    _cpu.avg_pool2d_forward(context, x, x, (1, 1), (1, 1), (0, 0))
    _cpu.adaptive_avg_pool2d_backward(context, x, x)
    assert time.monotonic() - start < 0.5


def test_empty_arrays_of_impossible_size():
    for shape in [(2**62,), (2**40, 2**40), (HUGE, HUGE, 0)]:
        with pytest.raises(MemoryError, match="no more memory"):
            _cpu.empty(shape, FLOAT32)
    with pytest.raises(ShapeError, match="a dimension is -1"):
        _cpu.empty((-1,), FLOAT32)


def test_out_of_memory_is_an_error_and_the_next_op_works():
    code = """
import resource
import imgrec_engine as ie

x = ie.ones((1024, 1024))
(x @ x).relu()  # the pool's threads and their stacks come before the limit
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
for shape in [(1 << 26,), (1 << 13, 1 << 13)]:
    try:
        ie.ones(shape)
    except ie.errors.OutOfMemoryError:
        pass
    else:
        raise SystemExit("no error")
kept = []
try:
    while True:
        kept.append(x.relu())
except MemoryError as error:
    assert type(error).__name__ == "OutOfMemoryError", error
del kept
assert (x @ x)[0, 0].item() == 1024
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr + result.stdout


def test_lengths_changed_after_the_forward_pass_do_not_change_the_backward_pass():
    def gradient(change):
        lengths = np.array([3, 2])
        x = ie.ones((2, 3, 2), requires_grad=True)
        output, _ = ie.functional.rnn(x, None, ie.ones((2, 2)), ie.ones((2, 2)), lengths=lengths)
        if change:
            lengths[:] = 1
        output.sum().backward()
        return x.grad.numpy()

    np.testing.assert_array_equal(gradient(True), gradient(False))
