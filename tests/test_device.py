"""Devices: where tensors live, how they move, what is refused, and what the environment says about `sim`."""

import os
import subprocess
import sys

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import checkpoint, device, info, kernels, nn, optim, simulator
from imgrec_engine import functional as F
from imgrec_engine.errors import DeviceError
from imgrec_engine.random import next_state
from imgrec_engine.train import Recogniser, Trainer

SIM = "sim" in device.names()
needs_sim = pytest.mark.skipif(not SIM, reason="this build has no simulator")


def python(code, **environment):
    """Runs code in a process of its own: the device `sim` is made once in each."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("IMGREC_SIM")}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_the_environment_asks_for_is_there():
    assert SIM or not os.environ.get("IMGREC_SIM_CHECK")


def test_unknown_devices_are_refused():
    for ask in (
        lambda: ie.zeros(2, device="gpu"),
        lambda: ie.rand(2, device="gpu"),
        lambda: ie.ones(2).to(device="gpu"),
    ):
        with pytest.raises(DeviceError, match="device 'gpu' is not available; this version has cpu, sim"):
            ask()


def test_an_absent_module_is_named_with_what_builds_it(monkeypatch):
    for check, module, command in (("", "_sim", "IMGREC_SIM=ON"), ("race", "_sim_checked", "make checked")):
        monkeypatch.setenv("IMGREC_SIM_CHECK", check)
        monkeypatch.setitem(sys.modules, f"imgrec_engine.{module}", None)
        monkeypatch.delitem(kernels._OF_TYPE, simulator.SimArray, raising=False)
        with pytest.raises(DeviceError, match=rf"'sim' is not available: .*imgrec_engine\.{module} .*{command}"):
            ie.ones(2, device="sim")
        assert device.names() == ("cpu",)
        assert f"device sim     absent: importing imgrec_engine.{module}" in info.report()


def test_the_package_does_not_import_the_simulator():
    code = "import sys, imgrec_engine as ie; (ie.ones(2) * 2).sum(); print([n for n in sys.modules if '._sim' in n])"
    assert python(code).stdout.strip() == "[]"


@needs_sim
def test_the_environment_sets_the_simulated_gpu():
    code = """
import imgrec_engine as ie
from imgrec_engine import info, kernels
ie.set_num_threads(2)
context = kernels.load("sim")[1]
print(context.sm_count, context.max_shared_bytes, context.threads)
ie.set_num_threads(1)
print(kernels.load("sim")[1].threads)
print(info.report())
"""
    assert python(code).stdout.split("\n")[:2] == ["4 101376 2", "1"]
    other = python(code, IMGREC_SIM_SMS="7", IMGREC_SIM_SHARED="227").stdout
    assert other.startswith("7 232448 2\n")
    assert "7 simulated SMs (IMGREC_SIM_SMS) with 227 KB shared memory" in other
    assert "schedule: eager (IMGREC_SIM_SCHEDULE), checkers: none" in other


@needs_sim
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("IMGREC_SIM_SMS", "0", "a whole number from 1 to 64"),
        ("IMGREC_SIM_SMS", "four", "a whole number from 1 to 64"),
        ("IMGREC_SIM_SHARED", "48", "99, 163 or 227"),
    ],
)
def test_wrong_settings_are_refused(variable, value, expected):
    code = "import imgrec_engine as ie; ie.ones(2); print('cpu works'); ie.ones(2, device='sim')"
    result = python(code, **{variable: value})
    assert result.stdout.strip() == "cpu works"
    assert f"ValueError: {variable} is '{value}', expected {expected}" in result.stderr


def test_contexts_refuse_numbers_out_of_range():
    module, _ = kernels.load("cpu")
    context = module.Context(threads=1)
    assert (context.sm_count, context.max_shared_bytes) == (0, 0)
    for wrong in ({"threads": 0}, {"threads": 1, "sm_count": -1}, {"threads": 1, "max_shared_bytes": -1}):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]} is {list(wrong.values())[-1]}, expected"):
            module.Context(**wrong)


# --- tensors on sim ---------------------------------------------------------------------------------------------------


@needs_sim
def test_creation_puts_tensors_on_the_device():
    made = [
        ie.tensor([1.0], device="sim"),
        ie.zeros(2, device="sim"),
        ie.ones((2, 3), device="sim"),
        ie.full((), 3, device="sim"),
        ie.arange(3, device="sim"),
        ie.rand(2, device="sim"),
        ie.randn(2, dtype="bfloat16", device="sim"),
    ]
    assert {x.device for x in made} == {"sim"}
    assert all("device='sim'" in repr(x) for x in made)
    assert "device" not in repr(ie.ones(2))


@needs_sim
def test_random_numbers_are_the_same_bits():
    drawn = []
    for name in ("cpu", "sim"):
        ie.manual_seed(3)
        x = ie.randn(7, device=name)
        drawn.append([y.numpy().tobytes() for y in (x, ie.rand(7, device=name), F.dropout(x, 0.5))])
    assert drawn[0] == drawn[1]
    assert device.of(next_state(x._array)) == "sim"


@needs_sim
def test_numpy_shares_memory_as_a_plain_array():
    x = ie.ones(3, device="sim")
    array = x.numpy()
    assert type(array) is type(np.asarray(x)) is type(np.from_dlpack(x)) is np.ndarray
    array[0] = 5
    assert x.tolist() == np.from_dlpack(x).tolist() == [5, 1, 1]
    assert ie.from_dlpack(x).device == "cpu"
    assert x.__dlpack_device__() == (1, 0)


@needs_sim
def test_to_copies_and_gradients_come_back():
    x = ie.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = x.T.to("sim")
    assert (y.device, y.is_leaf, y.tolist()) == ("sim", False, x.T.tolist())
    assert not np.shares_memory(x.numpy(), y.numpy())
    (y * ie.tensor([[1.0, 2.0], [3.0, 4.0]], device="sim")).to("cpu").sum().backward()
    assert (x.grad.device, x.grad.tolist()) == ("cpu", [[1, 3], [2, 4]])
    assert y.to("sim") is y
    assert (y.detach().to("cpu", "float64").dtype, x.to("float64", device="sim").device) == (ie.float64, "sim")
    with ie.no_grad():
        assert x.to("sim").is_leaf


@needs_sim
def test_a_write_after_a_transfer_changes_only_one_side():
    x = ie.ones(2, requires_grad=True)
    y = x.to("sim")
    with ie.no_grad():
        x.fill_(7)
    y.sum().backward()  # what is copied back does not depend on x
    assert (y.tolist(), x.grad.tolist()) == ([1, 1], [1, 1])


@pytest.mark.parametrize("name", device.names())
def test_gradients_without_dimensions_are_tensors_to_write_to(name):
    x = ie.tensor(2.0, device=name, requires_grad=True)
    for _ in range(2):
        (x * x + x).backward()
    assert (x.grad.device, x.grad.item(), x.grad.fill_(1).item()) == (name, 10, 1)


@needs_sim
def test_gradients_stay_on_the_device():
    x = ie.tensor(2.0, device="sim", requires_grad=True)
    unused = ie.ones(2, device="sim", requires_grad=True)
    assert [g.device for g in ie.grad((x * x + 0 * x), [x])] == ["sim"]
    assert ie.grad(x * 1, [unused])[0].device == "sim"
    y = ie.ones((2, 3), device="sim", requires_grad=True)
    y.backward(np.full((2, 3), 2))
    assert (y.grad.device, y.grad.sum().item()) == ("sim", 12)
    with pytest.raises(DeviceError, match=r"the gradient is on cpu and the tensor on sim; .*gradient.to\('sim'\)"):
        y.backward(ie.ones((2, 3)))


@ie.differentiable
def forgetful(x: "ie.autograd.Array") -> object:
    """Returns plain NumPy arrays and numbers, as NumPy's functions do for arrays of other types."""
    y = np.asarray(x) * 2
    return (y, np.float32(y.sum())), lambda dys, needs: (
        np.zeros(x.shape) if dys[0] is None else np.asarray(dys[0]) * 2,
    )


@pytest.mark.parametrize("name", device.names())
def test_results_are_placed_on_the_device_of_the_inputs(name):
    x = ie.ones((2, 3), device=name, requires_grad=True)
    y, total = forgetful(x)
    assert (y.device, total.device, total.shape) == (name, name, ())
    y.sum().backward()
    assert (x.grad.device, x.grad.tolist()) == (name, [[2] * 3] * 2)


@needs_sim
def test_views_know_each_other():
    x = ie.ones((2, 3), device="sim", requires_grad=True)
    y = x * 2
    z = y.reshape(6)
    loss = (z * z).sum()
    with ie.no_grad():
        y.fill_(0)
    with pytest.raises(ie.errors.AutogradError, match="changed in place"):
        loss.backward()


@needs_sim
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: a + b, r"add: x on cpu, y on sim; expected all on one device: y.to\('cpu'\)"),
        (lambda a, b: b * a, r"multiply: x on sim, y on cpu; expected all on one device: y.to\('sim'\)"),
        (lambda a, b: b + a.numpy(), r"add: x on sim, y on cpu"),
        (lambda a, b: ie.stack([a, a, b]), r"stack: .*tensors\[2\] on sim; .*: tensors\[2\].to\('cpu'\)"),
        (lambda a, b: F.linear(b, a, bias=a), r"linear: .*: weight.to\('sim'\) and bias.to\('sim'\)"),
    ],
)
def test_mixed_devices_are_refused_by_name(call, words):
    with pytest.raises(DeviceError, match=words):
        call(ie.ones((2, 2)), ie.ones((2, 2), device="sim"))


@needs_sim
def test_numbers_and_copies_mix_with_every_device():
    x = ie.ones(2, device="sim")
    for y in (x + 1, 2 - x, x * np.float32(2), x**2, ie.where(x > 0, 1.5, x), x.clip(0, 0.5), x == 1):
        assert y.device == "sim"
    x.copy_(ie.full((2,), 3))
    x[0] = ie.tensor(4.0)
    assert x.tolist() == [4, 3]
    assert ie.ones(2).copy_(x).tolist() == [4, 3]
    assert (x[ie.tensor([1])].device, x[ie.tensor([1], device="sim")].tolist()) == ("sim", [3])
    sequence = ie.ones((2, 3, 4), device="sim")
    output, _ = nn.GRU(4, 5).to("sim")(sequence, lengths=ie.tensor([3, 1]))
    assert output.device == "sim"


# --- modules, optimisers, training ------------------------------------------------------------------------------------


@needs_sim
def test_modules_move_with_parameters_buffers_and_gradients():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(ie.ones((2, 3))).sum().backward()
    parameters = list(model.parameters())
    assert model.to("sim") is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    tensors = [*parameters, *(p.grad for p in parameters), *model.buffers()]
    assert {x.device for x in tensors} == {"sim"}
    assert model(ie.ones((2, 3), device="sim")).device == "sim"
    with pytest.raises(DeviceError, match="linear: x on cpu"):
        model(ie.ones((2, 3)))
    assert {x.device for x in model.to("cpu", "float64").state_dict().values()} == {"cpu"}


@needs_sim
def test_checkpoints_land_on_the_host_and_load_into_any_device(tmp_path):
    model = nn.Linear(3, 4).to("sim")
    ie.save(tmp_path / "m.safetensors", model.state_dict())
    state, _ = checkpoint.load(tmp_path / "m.safetensors")
    assert {x.device for x in state.values()} == {"cpu"}
    other = nn.Linear(3, 4).to("sim")
    other.load_state_dict(state)
    assert other.weight.device == "sim"
    assert other.weight.tolist() == model.weight.tolist()


@needs_sim
@pytest.mark.parametrize("make", [lambda p: optim.AdamW(p), lambda p: optim.SGD(p, momentum=0.9)])
def test_optimisers_keep_their_state_where_the_parameters_are(make):
    def steps(places):
        model = nn.Linear(3, 2)
        model.load_state_dict({"weight": np.linspace(0, 1, 6).reshape(2, 3), "bias": np.zeros(2)})
        optimizer = make(model.parameters())
        for place in places:
            model.to(place)
            optimizer.zero_grad()
            (model(ie.ones((4, 3), device=place)) ** 2).sum().backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optim.clip_grad_value_(model.parameters(), 0.5)
            optimizer.step()
            assert {v.device for state in optimizer.state.values() for v in state.values()} == {place}
        return model.weight.numpy(), optimizer

    expected, optimizer = steps(["cpu"] * 3)
    for places in (["sim"] * 3, ["cpu", "sim", "cpu"]):
        np.testing.assert_allclose(steps(places)[0], expected, rtol=1e-6)
    moved = make([p := nn.Parameter(ie.zeros((2, 3), device="sim")), nn.Parameter(ie.zeros(2, device="sim"))])
    moved.load_state_dict(optimizer.state_dict())
    assert {v.device for v in moved.state[p].values()} == {"sim"}


@needs_sim
def test_a_model_trains_and_recognises_as_on_the_cpu():
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    losses, probabilities = {}, {}
    for name in ("cpu", "sim"):
        ie.manual_seed(0)
        model = ie.models.create("cnn_lstm", num_classes=3, in_channels=1, image_size=8).to(name)
        trainer = Trainer(model, optim.AdamW(model.parameters(), lr=1e-2), max_grad_norm=1.0)
        batch = ie.tensor(images / np.float32(255)), ie.tensor(np.arange(8) % 3)
        losses[name] = [trainer.train_batch(*batch).item() for _ in range(3)]
        evaluation = trainer.evaluate([batch])
        losses[name].append(evaluation.loss)
        recogniser = Recogniser(model, ("a", "b", "c"), ie.data.Preprocessing((8, 8), 1, (0.5,), (0.5,)))
        probabilities[name] = recogniser.probabilities(images)
    np.testing.assert_allclose(losses["sim"], losses["cpu"], rtol=1e-4)
    np.testing.assert_allclose(probabilities["sim"], probabilities["cpu"], atol=1e-4)
