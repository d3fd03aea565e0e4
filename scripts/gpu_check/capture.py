"""Stage 5: training steps captured as a CUDA graph, and the same steps called one by one, give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

import imgrec_engine as ie
from gpu_check.stage import Rows, Setting, Skip
from imgrec_engine import functional as F
from imgrec_engine import nn, optim

STEPS = 12


def run(setting: Setting, rows: Rows) -> str:
    """A row for each optimiser: losses and the parameters at the end."""
    capture: Any = getattr(ie, "capture", None)
    if not callable(capture):
        raise Skip("not there yet: this version has no imgrec_engine.capture")
    for name, make in {
        "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
        "AdamW": lambda p: optim.AdamW(p, lr=2e-3),
    }.items():
        eager, captured = (train(setting.device, make, call) for call in (_simply, capture))
        different = sum(a != b for a, b in zip(eager[0], captured[0], strict=True))
        rows.add(f"{name}, dropout, falling learning rate", eager == captured, losses=STEPS, different=different)
    return f"{rows.count} optimisers, {STEPS} steps with dropout and a falling learning rate"


def _simply(step: Any) -> Any:
    return step


def train(device: str, make: Any, capture: Any) -> tuple[list[float], list[bytes]]:
    """Losses and parameters of a small network with dropout."""
    ie.manual_seed(4)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)).to(device)
    optimizer = make(model.parameters())
    schedule = optim.StepLR(optimizer, step_size=3)

    def step(x: ie.Tensor, targets: ie.Tensor) -> ie.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), targets)
        loss.backward()
        optimizer.step()
        return loss

    called = capture(step)
    x, targets = ie.rand(64, 32, device=device), ie.tensor(np.arange(64) % 10, device=device)
    losses = []
    for _ in range(STEPS):
        losses.append(float(called(x, targets).item()))
        schedule.step()
    return losses, [parameter.numpy().tobytes() for parameter in model.parameters()]
