"""Optimisers, clipping and schedules, against PyTorch's formulas in NumPy."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import nn, optim
from imgrec_engine.errors import AutogradError, CheckpointError


def sgd(p, g, state, lr, momentum=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * p
    if momentum:
        state["b"] = g if "b" not in state else momentum * state["b"] + g
        g = g + momentum * state["b"] if nesterov else state["b"]
    return p - lr * g


def adam(p, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    return p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(p, g, state, lr, weight_decay=1e-2, **rest):
    return adam(p, g, state, lr, weight_decay=weight_decay, decoupled=True, **rest)


CASES = [
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.Adam, adam, {"lr": 0.05}),
    (optim.Adam, adam, {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    (optim.AdamW, adamw, {"lr": 0.05}),
    (optim.AdamW, adamw, {"lr": 0.05, "weight_decay": 0.3}),
]


@pytest.mark.parametrize(("kind", "formula", "settings"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)])
def test_updates_follow_the_formula(kind, formula, settings, dtype, tolerance):
    x = ie.randn(3, 5, dtype=dtype, requires_grad=True)
    expected, state = x.numpy().astype(np.float64), {}
    optimizer = kind([x], **settings)
    for step in range(6):
        x.grad = ie.randn(3, 5, dtype=dtype) * (1 + step)
        expected = formula(expected, x.grad.numpy().astype(np.float64), state, **settings)
        optimizer.step()
        np.testing.assert_allclose(x.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_groups_have_their_own_settings():
    a, b, idle = (ie.ones(2, requires_grad=True) for _ in range(3))
    optimizer = optim.SGD([{"params": [a, idle]}, {"params": b, "lr": 0.5}], lr=0.1)
    a.grad, b.grad = ie.ones(2), ie.ones(2)
    optimizer.step()
    np.testing.assert_allclose([a.numpy()[0], b.numpy()[0], idle.numpy()[0]], [0.9, 0.5, 1.0])
    optimizer.zero_grad()
    assert a.grad is None
    assert b.grad is None
    assert "lr=0.5" in repr(optimizer)


def test_a_step_is_noticed_by_autograd():
    x = ie.ones(2, requires_grad=True)
    y = (x * x).sum()
    x.grad = ie.ones(2)
    optim.SGD([x], lr=0.1).step()
    with pytest.raises(AutogradError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize(("kind", "formula", "settings"), CASES)
def test_state_continues_bit_for_bit(kind, formula, settings):
    def train(x, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (x * x * x).sum().backward()
            optimizer.step()

    x = ie.randn(7, requires_grad=True)
    optimizer = kind([x], **settings)
    train(x, optimizer, 3)
    saved = optimizer.state_dict()
    groups = json.loads(json.dumps(saved["param_groups"]))
    tensors = {name: ie.tensor(value) for name, value in saved["state"].items()}
    y = ie.tensor(x, requires_grad=True)
    other = kind([y], lr=9.0)
    other.load_state_dict({"state": tensors, "param_groups": groups})
    train(x, optimizer, 3)
    train(y, other, 3)
    np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_a_state_of_other_parameters_is_refused():
    x = ie.ones(3, requires_grad=True)
    optimizer = optim.Adam([x])
    x.grad = ie.ones(3)
    optimizer.step()
    with pytest.raises(CheckpointError, match=r"groups of \[1\] parameters, expected \[2\]"):
        optim.Adam([ie.ones(3), ie.ones(3)]).load_state_dict(optimizer.state_dict())
    with pytest.raises(CheckpointError, match=r"exp_avg has shape \(3,\), expected \(4,\)"):
        optim.Adam([ie.ones(4)]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: optim.SGD([x], lr=-1), "SGD: lr is -1"),
        (lambda x: optim.SGD([x], nesterov=True), "nesterov needs a momentum"),
        (lambda x: optim.AdamW([x], betas=(0.9, 1.0)), r"AdamW: betas\[1\] is 1.0"),
        (lambda x: optim.Adam([x, x]), "is there twice"),
        (lambda x: optim.Adam([]), "empty list"),
        (lambda x: optim.Adam([x * 2]), "only leaves"),
        (lambda x: optim.clip_grad_norm_([x], -1), "max_norm is -1"),
        (lambda x: optim.StepLR(optim.SGD([x]), 0), "step_size is 0"),
        (lambda x: optim.OneCycleLR(optim.SGD([x]), 1.0, 0), "total_steps is 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(ie.ones(2, requires_grad=True))


def test_clipping_by_norm():
    parameters = [ie.zeros((3, 2), requires_grad=True), ie.zeros(5, dtype="float64", requires_grad=True), ie.zeros(1)]
    for parameter in parameters[:2]:
        parameter.grad = ie.randn(*parameter.shape, dtype=parameter.dtype)
    before = [parameter.grad.numpy().copy() for parameter in parameters[:2]]
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in before))
    assert optim.clip_grad_norm_(parameters, 1e9).item() == pytest.approx(norm, rel=1e-12)
    np.testing.assert_array_equal(parameters[0].grad.numpy(), before[0])
    assert optim.clip_grad_norm_(parameters, 0.5).item() == pytest.approx(norm, rel=1e-12)
    for parameter, g in zip(parameters, before, strict=False):
        np.testing.assert_allclose(parameter.grad.numpy(), g * 0.5 / (norm + 1e-6), rtol=1e-6)
    parameters[0].grad = ie.full((3, 2), float("nan"))
    assert math.isnan(optim.clip_grad_norm_(parameters, 0.5).item())


def test_clipping_by_value():
    x = ie.zeros(3, requires_grad=True)
    x.grad = ie.tensor([-3.0, 0.25, 2.0])
    optim.clip_grad_value_(x, 0.5)
    assert x.grad.tolist() == [-0.5, 0.25, 0.5]


# --- schedules --------------------------------------------------------------------------------------------------------


def rates(schedule, steps, entry="lr"):
    result = []
    for _ in range(steps):
        result.append(schedule.optimizer.param_groups[0][entry])
        schedule.step()
    return result


def optimizer_of(lr=0.4, **settings):
    return optim.SGD([ie.zeros(1, requires_grad=True)], lr=lr, **settings)


def test_step_schedule():
    np.testing.assert_allclose(rates(optim.StepLR(optimizer_of(), 3, 0.5), 7), [0.4] * 3 + [0.2] * 3 + [0.1])


def test_cosine_schedule():
    expected = [0.1 + 0.3 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(11)]
    np.testing.assert_allclose(rates(optim.CosineAnnealingLR(optimizer_of(), 10, eta_min=0.1), 11), expected)


def test_one_cycle_schedule():
    schedule = optim.OneCycleLR(optimizer_of(), max_lr=1.0, total_steps=20, pct_start=0.25)
    lrs = rates(schedule, 20)
    assert lrs[0] == pytest.approx(1 / 25)
    assert lrs[4] == pytest.approx(1.0)
    assert lrs[19] == pytest.approx(1 / 25 / 1e4)
    assert lrs == sorted(lrs[:5]) + sorted(lrs[5:], reverse=True)
    with pytest.raises(ValueError, match="total_steps is 20"):
        schedule.step()
    momenta = rates(optim.OneCycleLR(optimizer_of(momentum=0.9), 1.0, 20, pct_start=0.25), 20, "momentum")
    np.testing.assert_allclose([momenta[0], momenta[4], momenta[19]], [0.95, 0.85, 0.95])
    betas = rates(optim.OneCycleLR(optim.Adam([ie.zeros(1)]), 1.0, 20, pct_start=0.25), 20, "betas")
    np.testing.assert_allclose([betas[0], betas[4]], [(0.95, 0.999), (0.85, 0.999)])


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("total_steps", [1, 2, 10])
def test_one_cycle_has_no_holes(pct_start, total_steps):
    schedule = optim.OneCycleLR(optimizer_of(), 1.0, total_steps, pct_start)
    assert all(0 < rate <= 1 for rate in rates(schedule, total_steps))


def test_warm_up_leads_into_another_schedule():
    optimizer = optimizer_of(lr=1.0)
    cosine = optim.CosineAnnealingLR(optimizer, 4)
    schedule = optim.LinearWarmup(optimizer, 5, start_factor=0.5, after=cosine)
    expected = [0.5 + 0.1 * t for t in range(5)] + [(1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    np.testing.assert_allclose(rates(schedule, 10), expected, atol=1e-15)


def test_schedules_continue_from_their_state():
    def make():
        optimizer = optimizer_of(lr=0.3)
        return optim.LinearWarmup(optimizer, 3, after=optim.CosineAnnealingLR(optimizer, 9))

    whole, first, second = make(), make(), make()
    expected = rates(whole, 10)
    rates(first, 4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert rates(second, 6) == expected[4:]


def test_training_falls_with_every_optimizer():
    for kind, lr in [(optim.SGD, 0.1), (optim.Adam, 0.05), (optim.AdamW, 0.05)]:
        ie.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = kind(model.parameters(), lr=lr)
        x = ie.randn(64, 4)
        y = x[:, :1] * x[:, 1:2]
        losses = []
        for _ in range(60):
            error = model(x) - y
            loss = (error * error).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]


def test_example_optimizer_learns():
    path = Path(__file__).parents[1] / "examples" / "custom_optimizer.py"
    assert runpy.run_path(str(path))["main"]() < 0.01
