"""GradScaler against PyTorch's rules: scaling, skipped steps, growth and backoff, clipping in between, its state."""

import json

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import optim
from imgrec_engine.errors import CheckpointError, DTypeError
from imgrec_engine.train import Trainer

INFINITE = float("inf")


def problem(device, **settings):
    """A weight, its optimiser and a scaler."""
    weight = ie.ones(3).to(device).requires_grad_()
    return weight, optim.SGD([weight], lr=0.5), optim.GradScaler(**settings)


def step(weight, optimizer, scaler, gradient=1.0):
    """One training step with the gradient given; returns the scaled gradient."""
    optimizer.zero_grad()
    scaler.scale((weight * gradient).sum()).backward()
    scaled = weight.grad.numpy().copy()
    scaler.step(optimizer)
    scaler.update()
    return scaled


def test_gradients_are_scaled_and_unscaled(device):
    weight, optimizer, scaler = problem(device, init_scale=8.0)
    assert step(weight, optimizer, scaler).tolist() == [8.0] * 3
    assert weight.tolist() == [0.5] * 3
    assert scaler._scale.device == scaler._growth_tracker.device == device


@pytest.mark.parametrize("bad", [INFINITE, -INFINITE, float("nan")])
def test_a_step_with_a_bad_gradient_is_skipped(bad, device):
    weight, optimizer, scaler = problem(device, init_scale=8.0)
    gradient = ie.tensor([1.0, 1.0, bad]).to(device)
    step(weight, optimizer, scaler, gradient)
    assert weight.tolist() == [1.0] * 3
    assert scaler.get_scale() == 4.0
    step(weight, optimizer, scaler)
    assert weight.tolist() == [0.5] * 3


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_is_pytorchs(seed):
    torch = pytest.importorskip("torch")
    settings = {"init_scale": 64.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2}
    weight, optimizer, scaler = problem("cpu", **settings)
    reference = torch.amp.GradScaler("cpu", **settings)
    parameter = torch.ones(3, requires_grad=True)
    descent = torch.optim.SGD([parameter], lr=0.5)
    for overflows in np.random.default_rng(seed).random(16) < 0.3:
        gradient = INFINITE if overflows else 1.0
        step(weight, optimizer, scaler, gradient)
        descent.zero_grad()
        reference.scale((parameter * gradient).sum()).backward()
        reference.step(descent)
        reference.update()
        assert scaler.get_scale() == reference.get_scale()
        assert weight.tolist() == parameter.tolist()
        ours = scaler.state_dict()
        assert ours.pop("growth_tracker") == reference.state_dict().pop("_growth_tracker")
        assert ours.items() <= reference.state_dict().items()


def test_the_scale_stays_finite():
    weight, optimizer, scaler = problem("cpu", init_scale=2.0**127, growth_interval=1)
    step(weight, optimizer, scaler, 0.5)
    assert scaler.get_scale() == 2.0**127


def test_clipping_sees_the_gradients_themselves(device):
    weight, optimizer, scaler = problem(device, init_scale=1024.0)
    scaler.scale((weight * ie.tensor([0.0, 3.0, 4.0]).to(device)).sum()).backward()
    scaler.unscale_(optimizer)
    assert optim.clip_grad_norm_([weight], 1.0).item() == 5.0
    scaler.step(optimizer)
    np.testing.assert_allclose(weight.numpy(), [1.0, 0.7, 0.6], rtol=1e-6)


def test_several_optimisers_have_their_own_overflow():
    (a, first, scaler), (b, second, _) = problem("cpu", init_scale=8.0), problem("cpu")
    scaler.scale((a + b * ie.tensor([1.0, INFINITE, 1.0])).sum()).backward()
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert (a.tolist(), b.tolist(), scaler.get_scale()) == ([0.5] * 3, [1.0] * 3, 4.0)


def test_the_order_of_calls_is_checked():
    weight, optimizer, scaler = problem("cpu")
    with pytest.raises(RuntimeError, match="update: no gradients"):
        scaler.update()
    scaler.scale(weight.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscaled already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="made its step"):
        scaler.step(optimizer)


def test_float16_gradients_are_refused():
    weight = ie.ones(2, dtype="float16", requires_grad=True)
    optimizer, scaler = optim.SGD([weight]), optim.GradScaler()
    scaler.scale(weight.sum()).backward()
    with pytest.raises(DTypeError, match="float16"):
        scaler.step(optimizer)


@pytest.mark.parametrize(
    "settings",
    [{"init_scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        optim.GradScaler(**settings)


def test_without_enabled_it_only_makes_the_steps():
    weight, optimizer, scaler = problem("cpu", enabled=False)
    assert step(weight, optimizer, scaler).tolist() == [1.0] * 3
    assert weight.tolist() == [0.5] * 3
    assert (scaler.get_scale(), scaler.state_dict()) == (1.0, {})


def test_its_state_continues():
    weight, optimizer, scaler = problem("cpu", init_scale=8.0, growth_interval=3)
    step(weight, optimizer, scaler)
    step(weight, optimizer, scaler)
    loaded = optim.GradScaler()
    loaded.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert loaded.state_dict() == scaler.state_dict()
    step(weight, optimizer, loaded)
    assert loaded.get_scale() == 16.0
    with pytest.raises(CheckpointError, match="scale, growth_factor"):
        loaded.load_state_dict({})


# --- in training ------------------------------------------------------------------------------------------------------


def trainer(device, precision="float16"):
    ie.manual_seed(0)
    model = ie.models.create("cnn", num_classes=2, in_channels=1, image_size=8).to(device)
    return Trainer(model, optim.AdamW(model.parameters(), lr=3e-3), max_grad_norm=1.0, precision=precision)


def batch():
    images = np.random.default_rng(0).standard_normal((8, 8, 8, 1)).astype(np.float32)
    images[::2] += 1
    return ie.tensor(images), ie.tensor(np.arange(8) % 2)


def test_training_in_float16_survives_an_overflow(device):
    """An image far above 65,504 makes the forward pass infinite; that step is skipped, and training goes on."""
    training, (images, labels) = trainer(device), batch()
    first = training.train_batch(images, labels).item()
    before = [parameter.numpy().copy() for parameter in training.model.parameters()]
    scale = training.scaler.get_scale()
    planted = ie.tensor(np.where(np.arange(8)[:, None, None, None] == 3, np.float32(1e6), images.numpy()))
    assert not np.isfinite(training.train_batch(planted, labels).item())
    assert training.scaler.get_scale() == scale / 2
    for old, new in zip(before, training.model.parameters(), strict=True):
        assert np.array_equal(old, new.numpy())
        assert new.dtype == "float32"
    for _ in range(5):
        last = training.train_batch(images, labels).item()
    assert last < first / 2


def test_small_gradients_arrive_only_with_a_scale():
    """2^-30 is zero in float16, and 2^-14 is not."""
    x, w = ie.ones((1, 1)), ie.ones((1, 1), requires_grad=True)
    optimizer = optim.SGD([w], lr=2.0**29)
    for scaler, expected in [(optim.GradScaler(enabled=False), 1.0), (optim.GradScaler(2.0**16), 0.5)]:
        optimizer.zero_grad()
        with ie.autocast("float16"):
            loss = F.linear(x, w).sum() * 2.0**-30
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        assert w.item() == expected


def test_a_stopped_training_continues_with_its_scale(tmp_path):
    training, (images, labels) = trainer("cpu"), batch()
    for _ in range(2):
        training.train_batch(images, labels)
    training.scaler._scale.fill_(2.0**12)
    tensors, settings = training.state_dict()
    ie.save(tmp_path / "last.safetensors", tensors, {"training": settings})
    continued = trainer("cpu")
    tensors, metadata = ie.load(tmp_path / "last.safetensors")
    continued.load_state_dict(tensors, metadata["training"])
    assert {tensor.dtype.name for name, tensor in tensors.items() if name.startswith("model.")} <= {"float32", "int64"}
    assert continued.scaler.state_dict() == training.scaler.state_dict()
    assert continued.train_batch(images, labels).item() == training.train_batch(images, labels).item()
    for a, b in zip(training.model.parameters(), continued.model.parameters(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_trainer_runs_the_forward_pass_in_its_precision(precision):
    training, (images, labels) = trainer("cpu", precision), batch()
    assert training.scaler.enabled == (precision == "float16")
    seen, forward = [], training.model.forward
    training.model.forward = lambda x: seen.append(forward(x)) or seen[-1]
    assert training.train_batch(images, labels).dtype == "float32"
    assert seen[0].dtype == precision
