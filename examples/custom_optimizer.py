"""Writing an optimiser: Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023).

A subclass gives its settings to the base, with defaults, and says in `update` what happens to one parameter. Groups,
state, saving and loading come with the base. Run: python examples/custom_optimizer.py
"""

from collections.abc import Iterable
from typing import Any

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn, optim


class Lion(optim.Optimizer):
    """Each weight moves by the learning rate, in the direction of the sign of an average of the gradients."""

    def __init__(self, params: Iterable[ie.Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    def update(
        self, parameter: ie.Tensor, gradient: ie.Tensor, state: dict[str, ie.Tensor], group: dict[str, Any]
    ) -> None:
        """One step of Lion for one parameter."""
        beta1, beta2 = group["betas"]
        average = state.get("exp_avg", gradient * 0)
        uphill = beta1 * average + (1 - beta1) * gradient > 0
        parameter.copy_(F.where(uphill, parameter - group["lr"], parameter + group["lr"]))
        state["exp_avg"] = beta2 * average + (1 - beta2) * gradient


def main() -> float:
    """Fits y = sin(3 x) with a small network and returns the last mean squared error."""
    ie.manual_seed(0)
    x = ie.rand(256, 1, low=-1, high=1)
    y = F.sin(3 * x)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = Lion(model.parameters(), lr=1e-2)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=300)
    for step in range(300):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: mean squared error {loss.item():.5f}")
    return float(loss.item())


if __name__ == "__main__":
    main()
