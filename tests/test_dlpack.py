"""Memory shared with other libraries through DLPack."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import kernels
from imgrec_engine.errors import DTypeError

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]


def test_dlpack_with_numpy_shares_memory():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for source in (array, array.T, array[:, ::-1], array[::-1, ::2]):
        x = ie.from_dlpack(source)
        assert x.tolist() == source.tolist()
        assert np.shares_memory(x.numpy(), array)
    y = np.from_dlpack(ie.from_dlpack(array))
    y[0, 0] = 9
    assert array[0, 0] == 9
    assert not np.shares_memory(ie.from_dlpack(array, copy=True).numpy(), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_carries_every_dtype(dtype):
    x = ie.tensor([[0, 1, 1]], dtype=dtype)
    y = ie.from_dlpack(x)
    assert y.dtype == x.dtype
    assert np.shares_memory(x.numpy(), y.numpy())
    empty = ie.from_dlpack(ie.zeros((0, 3), dtype=dtype))
    assert empty.shape == (0, 3)


def test_dlpack_keeps_memory_alive_and_gives_it_back():
    pool = kernels.load("cpu")[0]
    before = pool.pool_used()
    x = ie.from_dlpack(ie.ones(1000))
    assert x.sum().item() == 1000
    x.__dlpack__()  # a capsule that nobody takes
    x.__dlpack__(max_version=(1, 0))
    del x
    assert pool.pool_used() == before


def test_dlpack_respects_read_only_memory():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    x = ie.from_dlpack(array)
    with pytest.raises(ValueError, match="read-only"):
        x.fill_(1)
    with pytest.raises(BufferError, match="read-only"):
        x.__dlpack__()
    assert not np.from_dlpack(x).flags.writeable


def test_dlpack_refuses_by_name():
    with pytest.raises(BufferError, match="requires a gradient"):
        np.from_dlpack(ie.ones(1, requires_grad=True))
    with pytest.raises(BufferError, match="stream is 1"):
        ie.ones(1).__dlpack__(stream=1)
    with pytest.raises(BufferError, match="dl_device is"):
        ie.ones(1).__dlpack__(dl_device=(2, 0))
    with pytest.raises(TypeError, match="of type list, which has no __dlpack__"):
        ie.from_dlpack([1.0])
    with pytest.raises(DTypeError, match="from_dlpack: the tensor has DLPack dtype"):
        ie.from_dlpack(np.zeros(1, np.int16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "bool"])
def test_dlpack_with_torch(dtype):
    torch = pytest.importorskip("torch")
    theirs = torch.zeros(4, 3, dtype=getattr(torch, dtype)).T
    ours = ie.from_dlpack(theirs)
    ours.fill_(1)
    assert theirs.sum().item() == 12
    back = torch.from_dlpack(ours)
    assert back.dtype == theirs.dtype
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()
    back[0, 0] = 0
    assert ours.to("float32").sum().item() == 11
