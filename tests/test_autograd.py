"""Autograd: graphs of every shape, modes, and each error with its message."""

import functools
import gc
import threading
import weakref
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


def keep_in_a_list_that_holds_itself(x):
    saved = [x]
    saved.append(saved)
    return lambda dy, needs: (dy * saved[1][0],)


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
    [
        keep_in_list,
        keep_in_dictionary,
        keep_in_a_list_that_holds_itself,
        keep_in_inner_function,
        keep_in_partial,
        keep_in_default,
        keep_a_view,
    ],
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


def test_a_tensor_that_was_never_initialised_is_refused():
    with pytest.raises(AttributeError, match="_array"):
        F.relu(ie.Tensor.__new__(ie.Tensor))


def test_new_tensors_begin_as_the_class_makes_them():
    made, result = ie.Tensor(np.zeros(2)), ie.zeros(2) * 2
    slots = [name for name in ie.Tensor.__slots__ if name not in ("__weakref__", "_array", "_version")]
    assert all(getattr(result, name) is getattr(made, name) for name in slots)  # None, False and 0 are single objects
    assert type(result._version) is type(made._version)
    assert result._version is not made._version


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
