"""Stage 5: training steps captured as a CUDA graph, and the same steps called one by one, give the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import imgrec_engine as ie
from gpu_check.stage import Rows, Setting
from imgrec_engine import functional as F
from imgrec_engine import nn, optim

STEPS = 12


def run(setting: Setting, rows: Rows) -> str:
    """A row for each optimiser, without and with loss scaling: losses, and the parameters at the end."""
    optimizers: dict[str, Any] = {
        "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
        "AdamW": lambda p: optim.AdamW(p, lr=2e-3),
    }
    for (name, make), scaled in itertools.product(optimizers.items(), (False, True)):
        eager, captured = (train(setting.device, make, call, scaled) for call in (_simply, ie.capture))
        different = sum(a != b for a, b in zip(eager[0], captured[0], strict=True))
        what = f"{name}, dropout, falling learning rate" + ", float16 with loss scaling and overflows" * scaled
        rows.add(what, eager == captured, losses=STEPS, different=different)
    return f"{rows.count} ways, {STEPS} steps with dropout and a falling learning rate, half of them with loss scaling"


def _simply(step: Any) -> Any:
    return step


def train(device: str, make: Any, capture: Any, scaled: bool) -> tuple[list[float], list[bytes]]:
    """Losses and parameters of a small network with dropout; ``scaled`` makes every fifth step's gradients overflow."""
    ie.manual_seed(4)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)).to(device)
    optimizer = make(model.parameters())
    schedule = optim.StepLR(optimizer, step_size=3)

    scaler = optim.GradScaler(init_scale=1024.0, growth_interval=3, enabled=scaled)

    def step(x: ie.Tensor, targets: ie.Tensor, factor: ie.Tensor) -> ie.Tensor:
        optimizer.zero_grad()
        with ie.autocast("float16", enabled=scaled):
            loss = F.cross_entropy(model(x), targets)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    called = capture(step)
    x, targets = ie.rand(64, 32, device=device), ie.tensor(np.arange(64) % 10, device=device)
    losses = []
    for number in range(STEPS):
        factor = ie.full((), float("inf") if scaled and number % 5 == 4 else 1.0, device=device)
        losses.append(float(called(x, targets, factor).item()))
        schedule.step()
    return losses, [parameter.numpy().tobytes() for parameter in model.parameters()]
