"""Autograd: graphs of every shape, modes, and each error with its message."""

import functools
import gc
import threading
import weakref
from array import array
from collections.abc import Sequence

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.autograd import Array, Result, Results, differentiable
from imgrec_engine.errors import AutogradError


def leaf(*values):
    return ie.tensor(list(values), requires_grad=True)


def test_a_leaf_used_twice_gets_the_sum():
    x = leaf(2.0, 3.0)
    (x * x + x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [5, 7])


def test_diamonds_are_visited_once():
    calls = []

    @differentiable
    def counted(x: Array) -> Result:
        def backward(dy, needs):
            calls.append(float(dy))
            return (dy,)

        return x * 1, backward

    x = leaf(1.0)
    y = counted(x.sum())
    for _ in range(20):  # 2**20 paths
        y = y + y
    y.backward()
    assert calls == [2.0**20]
    assert x.grad.item() == 2.0**20


def test_gradients_accumulate_over_passes():
    x = leaf(1.0)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad.item() == 5
    assert first.item() == 2


def test_long_chains_need_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = -y
    y.backward()
    assert x.grad.item() == 1


def test_long_chains_that_never_ran_backward_are_freed():
    y = leaf(1.0)
    for _ in range(100_000):
        y = -y
    node = weakref.ref(y._node)
    del y
    gc.collect()
    assert node() is None


def test_backward_frees_what_was_saved():
    x = leaf(1.0)
    held = x * 2
    array = weakref.ref(held._array)
    y = held.exp() * held
    del held
    assert array() is not None
    loss = y.sum()
    loss.backward()
    gc.collect()
    assert array() is None


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


def test_keyword_tensors_are_recorded():
    x, weight, bias = ie.ones((1, 2)), ie.ones((3, 2), requires_grad=True), ie.zeros(3, requires_grad=True)
    F.linear(x, bias=bias, weight=weight).sum().backward()
    assert weight.grad.shape == (3, 2)
    assert bias.grad.tolist() == [1, 1, 1]


def test_arrays_are_operands_too():
    x = leaf(1.0, 2.0)
    y = np.array([2.0, 3.0], dtype=np.float32) * x
    y.sum().backward()
    assert isinstance(y, ie.Tensor)
    assert x.grad.tolist() == [2, 3]


def test_no_grad_as_context_and_decorator():
    x = leaf(1.0)

    @ie.no_grad()
    def double(x):
        return x * 2

    assert not double(x).requires_grad
    assert not double(x).requires_grad
    with pytest.raises(ZeroDivisionError), ie.no_grad():
        raise ZeroDivisionError
    assert ie.is_recording()
    assert (x * 2).requires_grad


def test_no_grad_is_a_matter_of_one_thread():
    seen = []
    with ie.no_grad():
        thread = threading.Thread(target=lambda: seen.append(ie.is_recording()))
        thread.start()
        thread.join()
    assert seen == [True]


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


@differentiable
def halves(x: Array, parts: int) -> Results:
    shape = x.shape

    def backward(dys, needs):
        assert type(dys) is tuple
        return (np.concatenate([np.zeros(shape[0] // parts) if dy is None else dy for dy in dys]),)

    return tuple(np.split(x, parts)), backward


@pytest.mark.parametrize(("parts", "expected"), [(1, [1, 1]), (2, [1, 0])])
def test_several_results_of_which_some_are_unused(parts, expected):
    x = leaf(1.0, 2.0)
    halves(x, parts)[0].sum().backward()
    assert x.grad.tolist() == expected


def test_integer_results_have_no_gradient():
    x = leaf(1.0, 2.0)
    assert not (x > 1).requires_grad
    assert (x > 1)._node is None
    assert not x.to("int64").requires_grad


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_second_backward_is_refused():
    y = (leaf(1.0) * 2).exp().sum()
    y.backward()
    with pytest.raises(AutogradError, match="backward of sum a second time"):
        y.backward()


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


def wrong(gradients):
    @differentiable
    def wrong(x: Array, y: Array) -> Result:
        return x * y, lambda dz, needs: gradients

    return wrong(leaf(1.0, 2.0), leaf(1.0, 2.0)).sum()


def test_wrong_pullbacks_are_named():
    zero = np.zeros(2)
    with pytest.raises(AutogradError, match="backward of wrong returned 1 gradients, expected 2"):
        wrong((zero,)).backward()
    with pytest.raises(AutogradError, match="backward of wrong returned ndarray, expected a tuple"):
        wrong(zero).backward()
    with pytest.raises(AutogradError, match=r"backward of wrong gave a gradient of shape \(3,\) for an input of shape"):
        wrong((zero, np.zeros(3))).backward()


def test_ops_without_tensors_are_refused():
    with pytest.raises(TypeError, match="differentiable: constant has no parameter"):

        @differentiable
        def constant(x: float) -> Result:
            return x, None


def test_wrong_pullbacks_of_sequences_are_named():
    @differentiable
    def join(tensors: Sequence[Array]) -> Result:
        return np.concatenate(tensors), lambda dy, needs: ((dy[:1],),)

    with pytest.raises(AutogradError, match="backward of join returned 1 gradients, expected 2: one for each tensor"):
        join([leaf(1.0), leaf(2.0)]).sum().backward()


def overwrite_by_index(x):
    x[0] = 5.0


def optimiser_step(x):
    with ie.no_grad():
        x.copy_(x - 0.1)


WRITES = [overwrite_by_index, lambda x: x.copy_(ie.zeros(2)), lambda x: x.fill_(0), lambda x: x[1:].fill_(0)]


@pytest.mark.parametrize("write", WRITES)
def test_changed_arguments_are_noticed(write):
    x, constant = leaf(1.0, 2.0), ie.tensor([3.0, 4.0])
    y = (x * constant).sum()
    write(constant)
    with pytest.raises(AutogradError, match="backward of multiply: argument 'y' was changed in place"):
        y.backward()


@pytest.mark.parametrize("write", WRITES)
def test_changed_results_are_noticed(write):
    y = leaf(1.0, 2.0).exp()
    loss = y.sum()
    with ie.no_grad():
        write(y)
    with pytest.raises(AutogradError, match="backward of exp: its result was changed in place"):
        loss.backward()


def test_an_early_optimiser_step_is_noticed():
    w = leaf(1.0, 2.0)
    loss = (w * w).sum()
    optimiser_step(w)
    with pytest.raises(AutogradError, match="backward of multiply: argument 'x' was changed"):
        loss.backward()


def test_writes_through_other_views_are_noticed():
    base = ie.tensor([[1.0, 2.0], [3.0, 4.0]])
    w = leaf(1.0, 2.0)
    loss = (base.T[0] * w).sum()
    base.detach().reshape(4)[3:].fill_(0)  # another part of the same memory counts too
    with pytest.raises(AutogradError, match="argument 'x' was changed"):
        loss.backward()


def test_what_was_not_saved_may_change():
    w, x = leaf(1.0, 2.0), ie.tensor([1.0, 1.0])
    loss = (w + x).sum()
    x.fill_(9)
    optimiser_step(w)
    loss.backward()
    assert w.grad.tolist() == [1, 1]


def keep_in_list(x):
    saved = [x]
    return lambda dy, needs: (dy * saved[0],)


def keep_in_dictionary(x):
    saved = {"x": (1, [x])}
    return lambda dy, needs: (dy * saved["x"][1][0],)


def keep_in_inner_function(x):
    def inner():
        return x

    return lambda dy, needs: (dy * inner(),)


def keep_in_partial(x):
    return functools.partial(lambda saved, dy, needs: (dy * saved,), x)


def keep_in_default(x):
    def backward(dy, needs, saved=x):
        return (dy * saved,)

    return backward


def keep_a_view(x):
    saved = x[::2]
    return lambda dy, needs: (dy * np.repeat(saved, 2),)


@pytest.mark.parametrize(
    "keep",
    [keep_in_list, keep_in_dictionary, keep_in_inner_function, keep_in_partial, keep_in_default, keep_a_view],
)
def test_saved_arrays_are_found_wherever_a_pullback_keeps_them(keep):
    @differentiable
    def custom(x: Array) -> Result:
        return x * 1, keep(x)

    x = leaf(1.0, 2.0)
    y = custom(x).sum()
    optimiser_step(x)
    with pytest.raises(AutogradError, match="backward of custom: argument 'x' was changed in place"):
        y.backward()


def test_writes_that_would_need_a_gradient_are_refused():
    x, buffer = leaf(1.0, 2.0), ie.zeros(2)
    for write in WRITES:
        with pytest.raises(AutogradError, match="this tensor requires a gradient, and a write in place"):
            write(x)
    with pytest.raises(AutogradError, match="the value requires a gradient"):
        buffer[0] = x[0]
    with pytest.raises(AutogradError, match="the value requires a gradient"):
        buffer.copy_(x)
    assert buffer.tolist() == [0, 0]


def test_leaves_alone_can_change_whether_they_require_a_gradient():
    with pytest.raises(AutogradError, match="only leaves"):
        (leaf(1.0) * 2).requires_grad_(False)
    with pytest.raises(ie.errors.DTypeError, match="only floating tensors"):
        ie.tensor([1]).requires_grad_()


def test_an_op_that_returns_no_pair_is_refused():
    @differentiable
    def forgetful(x: Array) -> Result:
        return x  # of two elements, which must not be taken for a pair

    with pytest.raises(TypeError, match="forgetful returned"):
        forgetful(ie.ones(2))


def test_an_error_inside_an_op_names_it_and_what_it_was_given():
    @differentiable
    def clumsy(x: Array, y: float) -> Result:
        return x.reshape(7), None

    with pytest.raises(ValueError, match=r"clumsy\(float32\[2, 3\], y='z'\): cannot reshape"):
        clumsy(ie.ones((2, 3)), y="z")


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
