"""On `sim`: bits that depend neither on how many multiprocessors there are nor on where arrays begin in memory."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import functional as F
from imgrec_engine import kernels

pytestmark = pytest.mark.skipif("sim" not in devices.names(), reason="built without the simulator")


def parameters(x):
    return [ie.tensor(np.linspace(-1, 2, x.shape[-1]), statistics_dtype(x), x.device) for _ in range(2)]


def statistics_dtype(x):
    return "float64" if x.dtype == np.float64 else "float32"


def cross_entropy(x):
    targets = ie.tensor(np.arange(x.shape[0]) % x.shape[1], device=x.device)
    return F.cross_entropy(x, targets, parameters(x)[0] + 2, label_smoothing=0.1)


# An op, and a shape whose rows are whole packs of 16 bytes: where the array begins alone decides about packs.
CALLS = {
    "softmax": (F.softmax, (40, 24)),
    "log_softmax of long rows": (F.log_softmax, (3, 4104)),
    "layer_norm": (lambda x: F.layer_norm(x, *parameters(x)), (70, 520)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, *parameters(x), training=True), (700, 40)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 9, 7, 16)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 9, 7, 16)),
    "cross_entropy": (cross_entropy, (300, 16)),
    "binary_cross_entropy": (lambda x: F.binary_cross_entropy_with_logits(x, x.detach()), (3, 7000)),
    "mse_loss": (lambda x: F.mse_loss(x, x.detach() * 0.5), (3, 7000)),
    "embedding": (lambda x: F.embedding(ie.tensor(np.arange(900) % 7 // 2, device=x.device), x), (5, 24)),
    "dropout": (lambda x: F.dropout(x, 0.4), (3, 999)),
}


def value_and_gradient(op, shape, dtype, shift=0):
    """Of an array that begins `shift` elements after the beginning of its memory."""
    ie.manual_seed(1)
    array = devices.empty_on("sim", (int(np.prod(shape)) + shift,), dtype)[shift:].reshape(shape)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    x = ie.Tensor(array).requires_grad_()
    y = op(x)
    y.backward(ie.tensor(np.random.default_rng(1).standard_normal(y.shape), y.dtype, "sim"))
    return y.numpy().tobytes(), x.grad.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_multiprocessors_or_alignment(name, dtype, monkeypatch):
    op, shape = CALLS[name]
    dtype = ie.zeros(0, dtype=dtype).dtype
    expected = value_and_gradient(op, shape, dtype)
    assert value_and_gradient(op, shape, dtype, shift=1) == expected
    array_type = kernels.HOST_TYPES["sim"]
    module, context = kernels._OF_TYPE[array_type]
    for multiprocessors in (1, 7):
        other = module.Context(context.threads, multiprocessors, context.max_shared_bytes)
        monkeypatch.setitem(kernels._OF_TYPE, array_type, (module, other))
        assert value_and_gradient(op, shape, dtype) == expected
