"""Learning-rate schedules, in PyTorch's formulas: each gives the rate of step t from the initial one alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from imgrec_engine.optim.optimizer import Group, Optimizer


class Scheduler:
    """Base of every schedule. A subclass says in ``rate`` what a group's learning rate is in step t = 0, 1, 2, ...

    Call ``step()`` after the optimiser's (after each batch or each epoch, as the schedule's numbers are meant).

    >>> import imgrec_engine as ie
    >>> class Halving(Scheduler):
    ...     def rate(self, initial, t, group):
    ...         return initial / 2**t
    >>> optimizer = ie.optim.SGD([ie.zeros(1, requires_grad=True)], lr=0.4)
    >>> schedule = Halving(optimizer)
    >>> schedule.step()
    >>> optimizer.learning_rate
    0.2
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.last_epoch = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._apply()

    def rate(self, initial: float, t: int, group: Group) -> float:
        """The learning rate in step t of a group that began with ``initial``."""
        raise NotImplementedError(f"{type(self).__name__} has no rate method")

    def step(self) -> None:
        """Goes on to the next step and sets the learning rates."""
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(group["initial_lr"], self.last_epoch, group)

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands; the optimiser's state holds the initial rates."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues from what ``state_dict`` returned."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._apply()


class StepLR(Scheduler):
    """The rate is multiplied by ``gamma`` every ``step_size`` steps.

    >>> import imgrec_engine as ie
    >>> optimizer = ie.optim.SGD([ie.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = StepLR(optimizer, step_size=2)
    >>> [(optimizer.learning_rate, schedule.step())[0] for _ in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise ValueError(f"StepLR: step_size is {step_size}, expected 1 or more")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, initial: float, t: int, group: Group) -> float:
        """The initial rate times gamma^(t // step_size)."""
        return initial * self.gamma ** (t // self.step_size)


class CosineAnnealingLR(Scheduler):
    """The rate falls along half a cosine to ``eta_min`` in step ``T_max`` (Loshchilov and Hutter, ICLR 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max is {T_max}, expected 1 or more")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer)

    def rate(self, initial: float, t: int, group: Group) -> float:
        """It is eta_min + (initial - eta_min) (1 + cos(pi t / T_max)) / 2."""
        return self.eta_min + (initial - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class OneCycleLR(Scheduler):
    """One cycle: up from max_lr / div_factor to max_lr, down to a final rate, along cosines (Smith and Topin, 2018).

    The rise takes the first ``pct_start`` of ``total_steps``; the final rate is max_lr / div_factor /
    final_div_factor. With ``cycle_momentum``, momentum (beta1 in Adam) goes the other way between ``max_momentum`` and
    ``base_momentum``. More steps than ``total_steps`` raise a ValueError.

    >>> import imgrec_engine as ie
    >>> optimizer = ie.optim.AdamW([ie.zeros(1, requires_grad=True)])
    >>> schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> rates = [(optimizer.learning_rate, schedule.step())[0] for _ in range(10)]
    >>> round(rates[0], 3), max(rates), rates.index(max(rates))
    (0.04, 1.0, 2)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"OneCycleLR: total_steps is {total_steps}, expected 1 or more")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is {pct_start}, expected 0 <= pct_start <= 1")
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError("OneCycleLR: cycle_momentum needs an optimiser with momentum or betas")
        self.total_steps = total_steps
        self.peak = pct_start * total_steps - 1
        self.cycle_momentum = cycle_momentum
        self.momenta = (max_momentum, base_momentum)
        self.max_lr = max_lr
        self.final_lr = max_lr / div_factor / final_div_factor
        for group in optimizer.param_groups:
            group["initial_lr"] = max_lr / div_factor
        super().__init__(optimizer)

    def rate(self, initial: float, t: int, group: Group) -> float:
        """The rate on one of the two cosines; sets the group's momentum too."""
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t}, but total_steps is {self.total_steps}")
        slow, fast = self.momenta
        if t < self.peak:
            lr, momentum = _cosine(initial, self.max_lr, t / self.peak), _cosine(slow, fast, t / self.peak)
        else:
            rest = self.total_steps - 1 - self.peak
            done = (t - self.peak) / rest if rest else 0.0
            lr, momentum = _cosine(self.max_lr, self.final_lr, done), _cosine(fast, slow, done)
        if self.cycle_momentum and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif self.cycle_momentum:
            group["momentum"] = momentum
        return lr


def _cosine(start: float, end: float, done: float) -> float:
    """From start at done = 0 to end at done = 1 along half a cosine."""
    return end + (start - end) / 2 * (math.cos(math.pi * done) + 1)


class LinearWarmup(Scheduler):
    """The rate rises linearly from ``start_factor`` times the initial one over ``total_iters`` steps.

    After that it stays, or follows the schedule ``after``, whose step 0 is the warm-up's end and which is not to be
    stepped by itself (Goyal et al., 2017).

    >>> import imgrec_engine as ie
    >>> optimizer = ie.optim.SGD([ie.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = LinearWarmup(optimizer, 4, start_factor=0.2, after=StepLR(optimizer, 1, gamma=0.5))
    >>> [(round(optimizer.learning_rate, 3), schedule.step())[0] for _ in range(7)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int, start_factor: float = 0.01, after: Scheduler | None = None
    ) -> None:
        if total_iters < 1:
            raise ValueError(f"LinearWarmup: total_iters is {total_iters}, expected 1 or more")
        if not 0 <= start_factor <= 1:
            raise ValueError(f"LinearWarmup: start_factor is {start_factor}, expected 0 <= start_factor <= 1")
        self.total_iters = total_iters
        self.start_factor = start_factor
        self.after = after
        super().__init__(optimizer)

    def rate(self, initial: float, t: int, group: Group) -> float:
        """The initial rate times start_factor + (1 - start_factor) t / total_iters, then ``after``'s rate."""
        if t >= self.total_iters:
            return initial if self.after is None else self.after.rate(initial, t - self.total_iters, group)
        return initial * (self.start_factor + (1 - self.start_factor) * t / self.total_iters)
