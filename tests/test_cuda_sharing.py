"""Memory on `cuda` that other libraries share: on a GPU where there is one, else on the stand-in."""

import types

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import cuda, device
from imgrec_engine.autograd import Array, Result, differentiable

pytestmark = pytest.mark.skipif("cuda" not in device.names(), reason="there is neither a GPU nor its stand-in")


@pytest.fixture
def cupy():
    return cuda.namespace()


def test_memory_is_shared_through_dlpack_in_both_directions(cupy):
    x = ie.arange(6, dtype="float32", device="cuda").reshape(2, 3)
    shared = cupy.from_dlpack(x)
    shared[0, 0] = 7
    assert x[0, 0].item() == 7
    assert x.__dlpack_device__() == (2, 0)
    back = ie.from_dlpack(shared.T)
    back[1, 0] = 9
    assert (back.device, back.shape, x.tolist()) == ("cuda", (3, 2), [[7, 9, 2], [3, 4, 5]])
    assert ie.from_dlpack(shared, copy=True).fill_(0).sum().item() == 0
    assert x[0, 0].item() == 7
    with pytest.raises(BufferError, match="requires a gradient"):
        cupy.from_dlpack(x.clone().requires_grad_())


def test_memory_is_shared_through_the_cuda_array_interface(cupy):
    x = ie.arange(6, dtype="float32", device="cuda").reshape(2, 3)
    shared = cupy.asarray(x)
    shared[0, 0] = 7
    assert x[0, 0].item() == 7
    copied = ie.tensor(shared, device="cuda")
    copied.fill_(0)
    assert (copied.device, x[0, 1].item(), ie.tensor(shared).device) == ("cuda", 1, "cpu")
    nones = ie.ones(2), ie.ones(2, device="cuda", requires_grad=True), ie.ones(2, dtype="bfloat16", device="cuda")
    assert not any(hasattr(none, "__cuda_array_interface__") for none in nones)


def test_a_leaf_copies_a_gradient_in_memory_of_another_library(cupy):
    theirs = cupy.asarray(np.arange(2, dtype=np.float32))
    exported = types.SimpleNamespace(__cuda_array_interface__=theirs.__cuda_array_interface__)

    @differentiable
    def pulling_back(x: Array) -> Result:
        return x.copy(), lambda dy, needs: (cupy.asarray(exported),)

    x = ie.ones(2, device="cuda", requires_grad=True)
    pulling_back(x).sum().backward()
    x.grad.fill_(7)
    assert theirs.get().tolist() == [0, 1]


def test_an_array_made_on_another_stream_is_waited_for(cupy):
    values = np.arange(1000, dtype=np.float32)
    pinned = np.ndarray(values.shape, values.dtype, cupy.cuda.alloc_pinned_memory(values.nbytes))
    pinned[...] = values
    for share in (ie.from_dlpack, lambda array: ie.tensor(array, device="cuda")):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            array = cupy.empty(values.shape, values.dtype)
            array.set(pinned, stream=stream)
            shared = share(array)
        stream.synchronize()
        np.testing.assert_array_equal(shared.numpy(), values)
