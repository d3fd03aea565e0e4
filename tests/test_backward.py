"""Gradients as they arrive: in leaves, from `grad`, in memory of their own and in the right dtype."""

import threading
from array import array

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine.autograd import Array, Result, differentiable
from imgrec_engine.errors import AutogradError


def leaf(*values):
    return ie.tensor(list(values), requires_grad=True)


def test_gradients_accumulate_over_passes():
    x = leaf(1.0)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad.item() == 5
    assert first.item() == 2


def test_backward_takes_a_gradient():
    x = leaf(1.0, 2.0)
    (x * x).backward(ie.tensor([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [2, 40])


def test_the_gradient_of_a_leaf_is_its_own():
    x = leaf(1.0, 2.0)
    x.sum().backward()
    gradient = x.grad
    with ie.no_grad():
        gradient[0] = 7.0
    assert gradient.tolist() == [7, 1]
    x = leaf(5.0)
    x.backward()
    assert x.grad.item() == 1


def test_gradients_take_the_dtype_of_their_tensor():
    x = ie.tensor([1.0, 2.0], dtype="bfloat16", requires_grad=True)
    w = ie.tensor([1.0, 2.0], requires_grad=True)
    (x * w).sum().backward()
    assert x.grad.dtype == ie.bfloat16
    assert w.grad.dtype == ie.float32


def test_grad_of_leaves_results_and_what_is_unused():
    x, unused = leaf(3.0), leaf(1.0, 1.0)
    y = x * x
    dx, dy, none = ie.grad((y * 2).sum(), [x, y, unused])
    assert (dx.item(), dy.item(), none.tolist()) == (12, 2, [0, 0])
    assert x.grad is unused.grad is None
    assert ie.grad(x.sum(), x)[0].item() == 1
    assert ie.grad(x, [x, x])[1].item() == 1


def test_grad_returns_memory_of_its_own():
    x = leaf(1.0, 2.0)
    (dx,) = ie.grad(x.sum(), x)
    dx.fill_(3)
    assert dx.tolist() == [3, 3]


@differentiable
def pulling_back(x: Array, give=None) -> Result:
    """A copy of x whose gradient is whatever `give` makes of dy."""
    return x.copy(), lambda dy, needs: (give(dy),)


def test_a_leaf_keeps_a_gradient_that_nobody_else_has():
    addresses = []

    def doubled(dy):
        dx = np.multiply(dy, 2)
        addresses.append(dx.ctypes.data)
        return dx.reshape(2, 1)

    x = ie.ones((2, 1), requires_grad=True)
    pulling_back(x, doubled).sum().backward()
    assert x.grad.numpy().ctypes.data == addresses[0]
    np.testing.assert_array_equal(x.grad.numpy(), [[2], [2]])


KEPT = np.arange(6, dtype=np.float32)


HELD_BY_OTHERS = array("f", range(2))


@pytest.mark.parametrize(
    "give",
    [
        lambda dy: KEPT[:2],  # a view of what somebody holds
        lambda dy: np.ones(2, np.float32)[::-1],  # not row-major
        lambda dy: np.empty(6, np.float32)[:2],  # part of a larger block, which would stay
        lambda dy: np.broadcast_to(np.float32(1), 2),  # read-only
        lambda dy: dy,  # the caller's
        lambda dy: np.asarray(HELD_BY_OTHERS),  # through a buffer that nobody else holds
        lambda dy: np.lib.stride_tricks.as_strided(KEPT, (2,)),
        lambda dy: np.from_dlpack(KEPT[:2]),  # a capsule is its base
    ],
)
def test_a_leaf_copies_any_other_gradient(give):
    given, start = [], ie.ones(2)

    def giving(dy):
        dx = give(dy)
        given.append(dx.ctypes.data)
        return dx

    x = leaf(1.0, 2.0)
    pulling_back(x, giving).backward(start)
    assert x.grad.numpy().ctypes.data not in given
    assert x.grad.numpy().flags.c_contiguous
    assert x.grad.numpy().flags.writeable
    x.grad.fill_(7)
    np.testing.assert_array_equal(KEPT, np.arange(6))
    assert HELD_BY_OTHERS.tolist() == [0, 1]
    np.testing.assert_array_equal(start.numpy(), [1, 1])


def test_leaves_with_the_same_gradient_do_not_share_its_memory():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    ((x + y) * 2).sum().backward()
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy())


def test_threads_may_share_a_leaf():
    x = leaf(1.0)

    def work():
        for _ in range(200):
            (x * 2).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert x.grad.item() == 1600


def test_only_scalars_start_a_backward_pass():
    with pytest.raises(AutogradError, match=r"backward: the tensor has shape \(2,\), expected a scalar"):
        (leaf(1.0, 2.0) * 2).backward()
    with pytest.raises(AutogradError, match=r"grad: the tensor has shape \(2,\), expected a scalar"):
        ie.grad(leaf(1.0, 2.0), [])
    with pytest.raises(AutogradError, match=r"the gradient has shape \(3,\), expected the tensor's, \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(ie.ones(3))
    with pytest.raises(AutogradError, match="does not depend on anything that requires a gradient"):
        ie.ones(()).backward()
    with pytest.raises(AutogradError, match=r"inputs\[1\] of shape \(2,\) does not require"):
        ie.grad(leaf(1.0).sum(), [leaf(1.0), ie.ones(2)])


def test_grad_takes_one_output():
    x = ie.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="grad: output is of type list"):
        ie.grad([x.sum()], x)


def test_gradients_rounded_to_fewer_bits_do_not_warn():
    x = ie.ones(2, dtype="float16", requires_grad=True)
    (x.to("float32") * 1e30).sum().backward()
    assert x.grad.tolist() == [np.inf, np.inf]


def test_the_mean_of_more_elements_than_float16_can_count_has_a_gradient():
    x = ie.ones((1 << 17,), dtype="float16", requires_grad=True)
    (x.mean() * 1024).backward()
    assert set(x.grad.numpy().tolist()) == {2.0**-7}
