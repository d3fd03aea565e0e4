"""Tensor: creation, operators, methods, conversions and what it prints."""

import copy
import operator

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.errors import AutogradError, DeviceError, DTypeError, ShapeError

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]


# --- creation and conversion ------------------------------------------------------------------------------------------


def test_tensor_copies_and_chooses_a_dtype():
    array = np.arange(3, dtype=np.float64)
    x = ie.tensor(array)
    array[0] = 9
    assert x.tolist() == [0, 1, 2]
    assert x.dtype == ie.float64
    assert ie.tensor(x, dtype="float16").dtype == ie.float16
    assert [ie.tensor(v).dtype.name for v in (1.0, [1], [True], [[1.0, 2]])] == ["float32", "int64", "bool", "float32"]
    with pytest.raises(DTypeError, match="complex64"):
        ie.tensor(np.zeros(1, np.complex64))
    with pytest.raises(DeviceError, match="'cuda' is not available"):
        ie.tensor([1.0], device="cuda")
    with pytest.raises(DeviceError, match="'cuda' is not available"):
        ie.tensor([1.0]).to("cuda")
    with pytest.raises(DTypeError, match="only floating tensors"):
        ie.tensor([1], requires_grad=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conversions_between_all_dtypes(dtype):
    for other in DTYPES:
        x = ie.tensor([0, 1, 1], dtype=dtype).to(other)
        assert x.dtype.name == other
        assert x.to("int64").tolist() == [0, 1, 1]
    x = ie.ones(2, dtype=dtype)
    assert x.to(dtype, "cpu") is x


def test_numpy_shares_memory_and_array_converts():
    x = ie.zeros(3)
    x.numpy()[1] = 4
    assert x.tolist() == [0, 4, 0]
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.array(x, copy=True).base is None


def test_item_len_bool_and_index():
    assert ie.tensor([[2.5]]).item() == 2.5
    assert len(ie.zeros((3, 2))) == 3
    assert [10, 20, 30][ie.tensor(2)] == 30
    assert float(ie.tensor([0.5])) == 0.5
    assert int(ie.tensor(3)) == 3
    assert not ie.tensor([0.0])
    assert 2 in ie.tensor([1, 2])
    assert [row.tolist() for row in ie.tensor([[1], [2]])] == [[1], [2]]
    with pytest.raises(ValueError, match=r"item: the tensor has shape \(2,\)"):
        ie.zeros(2).item()
    with pytest.raises(ValueError, match=r"truth of a tensor of shape \(2,\)"):
        bool(ie.zeros(2))
    with pytest.raises(TypeError, match="is no index"):
        operator.index(ie.tensor(1.0))
    with pytest.raises(TypeError, match="without dimensions"):
        len(ie.tensor(1.0))


def test_detach_shares_memory_and_copies_do_not():
    x = ie.ones(2, requires_grad=True)
    assert np.shares_memory(x.detach().numpy(), x.numpy())
    other = copy.deepcopy(x)
    assert other.requires_grad
    assert not np.shares_memory(other.numpy(), x.numpy())
    assert not np.shares_memory(x.clone().detach().numpy(), x.numpy())


# --- operators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "eq", "ne", "lt", "le", "gt", "ge"])
def test_operators_on_both_sides(name):
    function = getattr(operator, name)
    x, y = np.array([1.0, 2.0, 3.0], np.float32), np.array([3.0, 2.0, 0.5], np.float32)
    expected = function(x, y)
    for a, b in ((ie.tensor(x), ie.tensor(y)), (ie.tensor(x), y), (x, ie.tensor(y))):
        result = function(a, b)
        assert isinstance(result, ie.Tensor)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(function(ie.tensor(x), 2).numpy(), function(x, 2), rtol=1e-6)
    np.testing.assert_allclose(function(2, ie.tensor(x)).numpy(), function(2, x), rtol=1e-6)


def test_logic_operators():
    a, b = ie.tensor([True, True, False]), ie.tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, False]
    assert (~a & True).tolist() == [False, False, True]
    assert (False | b).tolist() == b.tolist()


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_python_numbers_do_not_widen(dtype):
    x = ie.tensor([1.0, 2.0], dtype=dtype)
    for y in (x + 1, 1.5 * x, x / 3, x**2, x**0.5, 2 - x, F.where(x > 1, x, 0.1), x.clip(0, 1.5), F.maximum(x, 1)):
        assert y.dtype == x.dtype
    assert (x > 1.5).dtype == np.bool_


def test_integers_meet_numbers():
    x = ie.tensor([1, 2], dtype="uint8")
    assert (x + 1).dtype == np.uint8
    assert (x + 0.5).dtype == ie.float32
    assert (x / 2).dtype == ie.float32
    assert (ie.tensor([True]) + 1).dtype == np.int64
    with pytest.raises(OverflowError, match="add: the number 300 does not fit into uint8"):
        x + 300


def test_dtypes_meet():
    names = {("float16", "bfloat16"): "float32", ("int64", "bfloat16"): "bfloat16", ("uint8", "int32"): "int32"}
    for (a, b), expected in names.items():
        assert (ie.ones(2, dtype=a) + ie.ones(2, dtype=b)).dtype.name == expected
        assert F.concatenate([ie.ones(2, dtype=b), ie.ones(2, dtype=a)]).dtype.name == expected


def test_equality_is_elementwise_and_hashing_by_identity():
    x, y = ie.ones(2), ie.ones(2)
    assert (x == y).tolist() == [True, True]
    assert len({x, y, x}) == 2
    assert (x == None) is False  # noqa: E711
    assert x != "text"


def test_augmented_assignment_writes_in_place_where_no_gradient_flows():
    x = same = ie.ones(2)
    x += 1
    x *= ie.tensor(3.0)
    x -= 2
    x /= 4
    assert x is same
    assert same.tolist() == [1, 1]
    parameter = ie.ones(2, requires_grad=True)
    with ie.no_grad():  # a step of gradient descent as PyTorch's users write it
        parameter -= 0.5 * ie.ones(2)
    assert parameter.tolist() == [0.5, 0.5]
    assert parameter.is_leaf


def test_augmented_assignment_binds_a_new_tensor_where_a_gradient_flows():
    parameter = ie.ones(2, requires_grad=True)
    loss = (parameter * 2).sum()
    first = loss
    loss += parameter.sum()
    assert first.item() == 4
    loss.backward()
    assert parameter.grad.tolist() == [3, 3]


def test_augmented_assignment_refuses_what_would_be_wrong():
    parameter = ie.ones(2, requires_grad=True)
    with pytest.raises(AutogradError, match="requires a gradient"):
        parameter += 1
    y = parameter.exp()
    view = y.detach()
    view += 1
    with pytest.raises(AutogradError, match="changed in place"):
        y.sum().backward()
    whole = ie.arange(3)
    with pytest.raises(DTypeError, match="float32"):
        whole += 0.5
    one = ie.ones(1)
    with pytest.raises(ShapeError, match="x \\+= y"):
        one += ie.ones(3)


def test_a_dtype_that_does_not_exist_is_refused():
    for name in ("bogus", "int16", None, 3, object):
        with pytest.raises(DTypeError, match="not supported"):
            ie.ones(2).to(name)


def test_to_takes_names():
    x = ie.ones(2)
    assert x.to(dtype="float16").dtype == ie.float16
    assert x.to(device="cpu") is x
    assert ie.nn.Linear(2, 3).to(dtype="float64", device="cpu").weight.dtype == ie.float64


def test_shapes_are_given_one_by_one_or_together():
    for create in (ie.zeros, ie.ones, ie.rand, ie.randn):
        assert create(2, 3).shape == create((2, 3)).shape == create([2, 3]).shape == (2, 3)
        assert create(np.int64(2)).shape == (2,)
        assert create(()).shape == create().shape == ()


def test_whole_numbers_outside_of_the_dtype_compare_as_they_are():
    x = ie.tensor(np.uint8([0, 255]))
    assert (x == 300).tolist() == [False, False]
    assert (x > -1).tolist() == [True, True]
    assert (x != -100).tolist() == [True, True]


def test_a_scalar_is_formatted_as_a_number():
    assert f"{ie.tensor(1.25):.1f} {ie.tensor(3):d} {ie.tensor(0.5)}" == "1.2 3 tensor(0.5, dtype=float32)"


def test_seeds_and_threads_are_whole_numbers():
    for call in (ie.manual_seed, ie.set_num_threads):
        for value in (1.5, "a", -1, None):
            with pytest.raises((TypeError, ValueError), match=call.__name__):
                call(value)
    with pytest.raises(ValueError, match="set_num_threads"):
        ie.set_num_threads(10**9)


def test_nan_and_infinity_are_results_not_warnings():
    x = ie.tensor([0.0, -1.0, 1e38])
    assert np.isnan(x.sqrt().numpy()[1])
    assert (1 / x).tolist()[0] == np.inf
    assert (x * 10).tolist()[2] == np.inf
    assert x.log().tolist()[0] == -np.inf
    assert not x.exp().isfinite().all()


def test_gradients_at_ties_and_edges():
    x = ie.tensor([2.0, 2.0, 1.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0.5, 0.5, 0]
    x.grad = None
    F.maximum(x, 2).sum().backward()
    assert x.grad.tolist() == [0.5, 0.5, 0]
    x.grad = None
    x.clip(1, 1.5).sum().backward()
    assert x.grad.tolist() == [0, 0, 1]
    zero = ie.zeros(1, requires_grad=True)
    for function in (lambda z: z.abs(), lambda z: z**0, lambda z: F.power(z, z * 0 + 2), lambda z: z.expand(3).std()):
        zero.grad = None
        function(zero).sum().backward()
        assert zero.grad.tolist() == [0]


# --- methods ----------------------------------------------------------------------------------------------------------


def test_methods_call_their_operations():
    x = ie.tensor(np.linspace(0.1, 0.9, 12).reshape(3, 4))
    calls = {
        "abs": (), "exp": (), "log": (), "sqrt": (), "sin": (), "cos": (), "clip": (0.2, 0.5), "relu": (), "gelu": (),
        "silu": (), "sigmoid": (), "tanh": (), "isfinite": (), "isnan": (), "clone": (), "sum": (1,), "mean": (0, True),
        "var": (1, 0), "std": (0,), "max": (1,), "min": ((0, 1),), "argmax": (1,), "argmin": (0,), "all": (1,),
        "any": (0,), "cumsum": (1,), "reshape": (2, 6), "flatten": (), "permute": (1, 0), "transpose": (0, 1),
        "squeeze": (), "unsqueeze": (1,), "expand": (2, 3, 4), "flip": (0,), "gather": (1, ie.tensor([[0], [1], [3]])),
    }  # fmt: skip
    for name, arguments in calls.items():
        ours, theirs = getattr(x, name)(*arguments), getattr(F, name)(x, *arguments)
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
        assert ours.shape == theirs.shape
    assert [part.shape for part in x.split([1, 3], axis=1)] == [(3, 1), (3, 3)]
    assert x.T.shape == (4, 3)
    assert (-x).abs().tolist() == abs(-x).tolist()


def test_variance_is_unbiased_by_default():
    x = ie.tensor([1.0, 2.0, 6.0])
    assert x.var().item() == 7
    assert x.var(correction=0).item() == pytest.approx(14 / 3)
    assert np.isnan(ie.ones(1).var().numpy())


def test_long_sums_stay_exact_along_every_axis():
    x = ie.full((2**24 // 4, 4), 1.0) + 0  # float32 cannot count further than 2**24 by ones
    assert F.concatenate([x, x]).sum().item() == 2**25
    tall = ie.full((3_000_000, 2), 0.1)
    expected = 3_000_000 * float(np.float32(0.1))
    np.testing.assert_allclose(tall.sum(0).numpy(), expected, rtol=1e-7)
    np.testing.assert_allclose(tall.mean(0).numpy(), np.float32(0.1), rtol=1e-7)
    w = ie.zeros(2, requires_grad=True)
    (tall + w).sum().backward()
    assert w.grad.tolist() == [3_000_000, 3_000_000]


def test_half_precision_sums_do_not_overflow_on_the_way():
    x = ie.full(1000, 100.0, dtype="float16")
    assert (x - 0).mean().item() == 100
    assert ie.full(4, 300.0, dtype="float16").var().item() == 0


def test_views_share_memory_and_copies_do_not():
    x = ie.zeros((2, 3))
    views = [x[0], x[:, 1:], x[0, 0], x.T, x.reshape(6), x.unsqueeze(0), x.flip(1), x.split(1)[0], x.expand(2, 2, 3)]
    assert all(np.shares_memory(view.numpy(), x.numpy()) for view in views)
    assert not any(np.shares_memory(copied.numpy(), x.numpy()) for copied in (x[[0]], x[x == 0], x.clone()))


# --- in place ---------------------------------------------------------------------------------------------------------


def test_assignment_by_index():
    x = ie.zeros((2, 3))
    x[0] = 1
    x[:, ie.tensor([2])] = ie.tensor([[5.0], [6.0]])
    x[x == 0] = -1
    assert x.tolist() == [[1, 1, 5], [-1, -1, 6]]
    with pytest.raises(ShapeError, match=r"x\[index\] = value for a tensor of shape \(2, 3\)"):
        x[0] = ie.zeros(4)
    with pytest.raises(IndexError, match=r"x\[index\] = value for a tensor of shape \(2, 3\): index 9"):
        x[9] = 0
    with pytest.raises(ShapeError, match=r"copy_: source of shape \(4,\) does not broadcast to \(2, 3\)"):
        x.copy_(ie.zeros(4))
    with pytest.raises(ValueError, match="fill_: this tensor's memory is read-only"):
        ie.zeros(1).expand(3).fill_(1)


def test_changing_an_index_later_does_not_move_gradients():
    x, index = ie.zeros(3, requires_grad=True), ie.tensor([0, 0])
    y = x[index].sum()
    index.fill_(2)
    y.backward()
    assert x.grad.tolist() == [2, 0, 0]


# --- repr -------------------------------------------------------------------------------------------------------------


def test_repr():
    assert repr(ie.tensor([1.0, 0.123456])) == "tensor([1.    , 0.1235], dtype=float32)"
    assert repr(ie.tensor([[0.1, -2.0]], dtype="bfloat16")) == "tensor([[ 0.1001, -2.    ]], dtype=bfloat16)"
    assert repr(ie.tensor([1, 2])) == "tensor([1, 2], dtype=int64)"
    assert repr(ie.ones(1, requires_grad=True)) == "tensor([1.], dtype=float32, requires_grad=True)"
    assert repr(ie.ones(1, requires_grad=True) * 2) == "tensor([2.], dtype=float32, grad_op=multiply)"
    assert repr(ie.zeros((0, 3))) == "tensor([], dtype=float32, shape=(0, 3))"
    large = repr(ie.zeros((1000, 1000), dtype="bfloat16"))
    assert large.endswith("dtype=bfloat16, shape=(1000, 1000))")
    assert len(large.splitlines()) == 7


def test_what_joins_and_chooses_is_at_hand():
    x = ie.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert ie.concatenate([x, x], 1).shape == (2, 4)
    assert ie.stack([x, x]).shape == (2, 2, 2)
    assert ie.where(x > 0, x, 0).tolist() == [[1, 0], [3, 4]]
    assert (x.softmax(0) == F.softmax(x, 0)).all()
    assert (x.log_softmax() == F.log_softmax(x, -1)).all()


def test_flat_widths_of_a_border_are_refused():
    with pytest.raises(ShapeError, match=r"pad: .*expected a pair \(before, after\)"):
        F.pad(ie.ones(2, 2), (1, 1))


def test_matrices_without_columns_have_products():
    x = ie.ones(3, 0, requires_grad=True)
    y = F.linear(x, ie.ones(2, 0, requires_grad=True))
    y.sum().backward()
    assert y.tolist() == [[0, 0]] * 3
    assert x.grad.shape == (3, 0)
    assert (ie.ones(2, 3, 0) @ ie.ones(0, 4)).shape == (2, 3, 4)
    weight = ie.ones(2, 0, requires_grad=True)
    F.embedding(ie.tensor([0, 1, 1]), weight).sum().backward()
    assert weight.grad.shape == (2, 0)
