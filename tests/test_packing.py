"""Packed weights are kept, and never those of values that are gone."""

import gc
import threading
from copy import deepcopy

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels, nn, optim, packing
from imgrec_engine.checkpoint import load, save

KINDS = ["conv2d", "linear", "lstm"]


class Layer:
    """One of the ops with packed weights, its weight with requires_grad=False unless told otherwise."""

    def __init__(self, kind):
        self.kind = kind
        rng = np.random.default_rng(3)
        shape, inputs = {
            "conv2d": ((8, 3, 3, 8), (1, 6, 6, 8)),
            "linear": ((24, 40), (5, 40)),
            "lstm": ((32, 8), (2, 3, 8)),
        }[kind]
        self.weight = ie.tensor(rng.standard_normal(shape, np.float32))
        self.x = ie.tensor(rng.standard_normal(inputs, np.float32))
        self.other = ie.tensor(rng.standard_normal((32, 8), np.float32))  # lstm's recurrent weight

    def __call__(self, weight=None, other=None):
        weight = self.weight if weight is None else weight
        if self.kind == "conv2d":
            return F.conv2d(self.x, weight, padding=1)
        if self.kind == "linear":
            return F.linear(self.x, weight)
        return F.lstm(self.x, None, None, weight, self.other if other is None else other)[0]

    def expected(self):
        """With weights that nothing was kept of."""
        return self(self.weight.clone(), self.other.clone()).numpy()

    def check(self):
        np.testing.assert_array_equal(self().numpy(), self.expected())


@pytest.fixture(params=KINDS)
def layer(request):
    made = Layer(request.param)
    made()
    return made


@pytest.fixture
def packs(monkeypatch):
    """How often weights were packed."""
    calls = []
    module, _ = kernels.load("cpu")
    for name in ("conv2d_pack", "matmul_pack", "recurrent_pack"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real: (calls.append(args), real(*args)))
    return calls


def test_weights_are_packed_once(layer, packs):
    for _ in range(3):
        layer.check()
        packs.clear()
        layer()
        assert not packs


def test_batches_of_any_size_share_what_is_packed(layer, packs):
    layer.x = ie.concatenate([layer.x] * 7)
    layer()
    assert not packs
    layer.check()


def copy(weight, value):
    weight.copy_(value)


def fill(weight, value):
    weight.fill_(0.5)


def assign(weight, value):
    weight[0] = value[0]


def add(weight, value):
    weight += value


def write_to_view(weight, value):
    weight.reshape(-1)[3:7].fill_(9)


def write_to_detached(weight, value):
    weight.detach().copy_(value)


def write_through_a_parameter(weight, value):
    nn.Parameter(weight).detach().copy_(value)


def step(optimizer):
    def change(weight, value):
        parameter = nn.Parameter(weight)
        parameter.grad = value
        optimizer([parameter], lr=0.1).step()

    change.__name__ = f"step_of_{optimizer.__name__}"
    return change


def load_state(weight, value):
    class Model(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(weight)

    Model().load_state_dict({"weight": value})


WRITES = [
    copy,
    fill,
    assign,
    add,
    write_to_view,
    write_to_detached,
    write_through_a_parameter,
    step(optim.SGD),
    step(optim.AdamW),
    load_state,
]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_every_write_in_place_is_seen(layer, write):
    before = layer().numpy()
    with ie.no_grad():
        write(layer.weight, layer.weight.clone() + 1)
    layer.check()
    assert abs(layer().numpy() - before).max() > 1e-3


def test_either_of_two_weights_counts():
    lstm = Layer("lstm")
    before = lstm().numpy()
    lstm.other.fill_(0.1)
    lstm.check()
    assert abs(lstm().numpy() - before).max() > 1e-3


EXPOSED = {
    "numpy": lambda weight: weight.numpy(),
    "__array__": np.asarray,
    "dlpack": np.from_dlpack,
    "a view": lambda weight: weight.reshape(-1).numpy().reshape(weight.shape),
    "detached": lambda weight: weight.detach().numpy(),
}


@pytest.mark.parametrize("expose", EXPOSED.values(), ids=EXPOSED)
@pytest.mark.parametrize("when", ["before", "after"])
def test_memory_that_was_handed_out_may_change_unseen(layer, expose, when):
    if when == "before":
        layer.weight = layer.weight.clone()
    shared = expose(layer.weight)
    layer()
    ie.from_dlpack(shared).fill_(0.25)
    layer.check()


def test_memory_of_others_may_change_unseen(layer):
    array = layer.weight.clone().numpy()
    shared = np.from_dlpack(array)  # a capsule is its base
    for weight in (
        ie.from_dlpack(array),
        F.reshape(array, array.shape),
        F.reshape(shared, array.shape),
        ie.Tensor(array),
        ie.Tensor(array.copy()),
    ):
        layer.weight = weight
        layer()
        array[...] += 1
        weight._array[...] += 1  # as its owner might
        layer.check()


def test_arrays_in_place_of_tensors_are_packed_anew(layer):
    array = layer.weight.clone().numpy()
    before = layer(array).numpy()
    array[...] = 0
    assert abs(layer(array).numpy() - before).max() > 1e-3


def test_looking_at_weights_hands_nothing_out(layer, packs, tmp_path):
    weight = layer.weight
    looks = [
        repr,
        ie.Tensor.tolist,
        np.array,
        lambda weight: weight.reshape(-1)[0].item(),
        lambda weight: weight[0] > 0,
    ]
    for look in [*looks, lambda weight: weight.__dlpack__(copy=True)]:
        look(weight)
    save(tmp_path / "x.safetensors", {"weight": weight})
    np.testing.assert_array_equal(load(tmp_path / "x.safetensors")[0]["weight"].numpy(), weight.clone().numpy())
    packs.clear()
    layer()
    assert not packs


def test_nothing_is_kept_of_weights_that_are_trained(layer):
    layer.weight = nn.Parameter(layer.weight.clone())
    layer().sum().backward()
    assert layer.weight._version.packed is None
    with ie.no_grad():
        layer()
    assert layer.weight._version.packed


def test_frozen_weights_are_kept_for_the_backward_pass(packs):
    conv = Layer("conv2d")
    conv.x.requires_grad_()
    for _ in range(3):
        packs.clear()
        conv().sum().backward()
    assert not packs


def test_other_settings_have_a_layout_of_their_own():
    weight, x = Layer("conv2d").weight, ie.ones((1, 9, 9, 8), requires_grad=True)
    settings = [{"padding": p, "stride": s, "dilation": d} for p in (0, 1, 2) for s in (1, 2, 3) for d in (1, 2)]
    for _ in range(2):
        for setting in settings:
            (dx,) = ie.grad(F.conv2d(x, weight, **setting).sum(), [x])
            (expected,) = ie.grad(F.conv2d(x, weight.clone(), **setting).sum(), [x])
            np.testing.assert_array_equal(dx.numpy(), expected.numpy())
    assert len(weight._version.packed) == packing.MOST_LAYOUTS


def test_images_smaller_than_the_stride_have_a_layout_of_their_own():
    """Weights are packed by the phases of the stride, of which such images have only some."""
    weight = Layer("conv2d").weight
    for size in [(1, 2), (2, 1), (2, 2), (1, 1)] * 2:
        x = ie.ones((1, *size, 8), requires_grad=True)
        (dx,) = ie.grad(F.conv2d(x, weight, padding=1, stride=2).sum(), [x])
        (expected,) = ie.grad(F.conv2d(x, weight.clone(), padding=1, stride=2).sum(), [x])
        np.testing.assert_array_equal(dx.numpy(), expected.numpy())


def test_packed_weights_go_with_their_tensor(layer):
    module, _ = kernels.load("cpu")
    gc.collect()
    used = module.pool_used()
    other = ie.tensor(layer.weight)
    layer(other)
    assert module.pool_used() > used
    del other
    assert module.pool_used() == used


def test_views_do_not_pile_up(layer):
    rows = layer.weight.shape[0]
    for _ in range(20):
        layer(layer.weight[:rows])
    assert len(layer.weight._version.packed) <= packing.MOST_LAYOUTS


def test_a_moved_module_is_packed_anew():
    model, x = nn.Linear(8, 8), ie.ones((2, 8))
    with ie.no_grad():
        model(x)
        model.to("float64")
        assert model(x.to("float64")).dtype == np.float64


@pytest.mark.parametrize("threads", [1, 2])
def test_other_numbers_of_threads_share_what_is_packed(layer, packs, threads):
    before, expected = ie.get_num_threads(), layer().numpy()
    ie.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(layer().numpy(), expected)
        assert not packs
    finally:
        ie.set_num_threads(before)


def test_what_is_packed_during_a_write_is_not_kept(layer, monkeypatch):
    """A thread that runs the op while another writes must not keep what it has seen of the write."""
    real = ie.device.write

    def slow_write(target, source):
        half = target.reshape(-1)[: target.size // 2]
        half[...] = source.reshape(-1)[: half.size]
        thread = threading.Thread(target=layer)
        thread.start()
        thread.join()
        real(target, source)

    monkeypatch.setattr(ie.device, "write", slow_write)
    layer.weight.copy_(layer.weight.clone() + 1)
    layer.check()


def test_the_weights_of_a_copied_model_are_packed_once(packs):
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 24)).eval()
    copied, x = deepcopy(model), ie.ones((1, 3, 3, 8))
    with ie.no_grad():
        expected = model(x).tolist()
        assert copied(x).tolist() == expected
        packs.clear()
        copied(x)
        assert not packs
        copied[2].weight.fill_(0)
        assert model(x).tolist() == expected
