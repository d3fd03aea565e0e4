"""Loss scaling, which keeps small float16 gradients from becoming zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgrec_engine import capturing
from imgrec_engine import functional as F
from imgrec_engine.autograd import no_grad
from imgrec_engine.creation import full, zeros
from imgrec_engine.device import on
from imgrec_engine.dtypes import float16
from imgrec_engine.errors import CheckpointError, DTypeError
from imgrec_engine.optim.clip import gradients_of, scale_gradients, squared_norms
from imgrec_engine.optim.optimizer import Optimizer
from imgrec_engine.tensor import Tensor

_SETTINGS = ("growth_factor", "backoff_factor", "growth_interval")


class GradScaler:
    """Scales the loss by as much as float16 gradients bear, and skips the steps in which they did not.

    ``scale(loss).backward()`` gives gradients times the scale, ``step(optimizer)`` divides them by it and skips the
    optimiser's step if one is not finite, and ``update()`` sets the next scale: times ``backoff_factor`` after a
    skipped step, times ``growth_factor`` after ``growth_interval`` steps in a row that were not. To look at or clip
    gradients in between, call ``unscale_(optimizer)`` first. Without ``enabled``, all of it does nothing but
    ``optimizer.step()``. Names and meaning are PyTorch's; Micikevicius et al., "Mixed precision training", ICLR 2018.

    Scale, count and whether a gradient was not finite are tensors on the device of the loss, and optimisers read there
    whether to skip their step: nothing waits for a GPU. A step for `ie.capture` must hold all of these calls.

    Raises:
        ValueError: a scale or factor that cannot be.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([1.0], requires_grad=True)
    >>> optimizer, scaler = ie.optim.SGD([x], lr=0.1), GradScaler(init_scale=1024.0)
    >>> for gradient in (1.0, float("inf")):
    ...     optimizer.zero_grad()
    ...     scaler.scale((x * gradient).sum()).backward()
    ...     scaler.step(optimizer)
    ...     scaler.update()
    ...     print(round(x.item(), 3), scaler.get_scale())
    0.9 1024.0
    0.9 512.0

    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not 0 < init_scale < float("inf"):
            raise ValueError(f"GradScaler: init_scale is {init_scale}, expected a finite number above 0")
        if not growth_factor > 1:
            raise ValueError(f"GradScaler: growth_factor is {growth_factor}, expected more than 1")
        if not 0 < backoff_factor < 1:
            raise ValueError(f"GradScaler: backoff_factor is {backoff_factor}, expected 0 < backoff_factor < 1")
        if growth_interval < 1:
            raise ValueError(f"GradScaler: growth_interval is {growth_interval}, expected 1 or more")
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.enabled = enabled
        self._scale = full((), init_scale)
        self._growth_tracker = zeros((), dtype="int32")
        self._overflows: dict[Optimizer, Tensor] = {}  # of each optimiser unscaled since the last update, a boolean
        self._stepped: set[Optimizer] = set()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale: what to call ``backward()`` of."""
        if not self.enabled:
            return loss
        if (recording := capturing.current()) is not None:
            recording.guards.append(self._captured)
            recording.undo.append(self._forget)
        self._scale, self._growth_tracker = self._scale.to(loss.device), self._growth_tracker.to(loss.device)
        return loss * self._scale

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divides the gradients of an optimiser's parameters by the scale, in place.

        RuntimeError the second time before ``update``; DTypeError for float16 gradients, which are rounded already.
        """
        if not self.enabled:
            return
        if optimizer in self._overflows:
            raise RuntimeError("GradScaler.unscale_: these gradients were unscaled already; call update() first")
        gradients = gradients_of(parameter for group in optimizer.param_groups for parameter in group["params"])
        if any(gradient.dtype == float16 for gradient in gradients):
            raise DTypeError("GradScaler.unscale_: a gradient is float16, expected float32 parameters under autocast")
        overflow = zeros((), dtype="bool", device=self._scale.device)
        for device in sorted({gradient.device for gradient in gradients}):
            here = [gradient for gradient in gradients if gradient.device == device]
            with on(here[0]._array):
                is_finite = F.isfinite(Tensor(squared_norms(here)).sum())
                scale_gradients(here, (1.0 / self._scale.to(device, "float64")).reshape(1)._array)
                overflow = F.logical_or(overflow, F.logical_not(is_finite).to(overflow.device))
        self._overflows[optimizer] = overflow

    def step(self, optimizer: Optimizer) -> None:
        """``optimizer.step()`` with unscaled gradients, or nothing where one of them is not finite.

        RuntimeError the second time before ``update``.
        """
        if not self.enabled:
            optimizer.step()
            return
        if optimizer in self._stepped:
            raise RuntimeError("GradScaler.step: this optimiser has made its step already; call update() first")
        if optimizer not in self._overflows:
            self.unscale_(optimizer)
        self._stepped.add(optimizer)
        optimizer.step(skip=self._overflows[optimizer])

    @no_grad()
    def update(self) -> None:
        """Sets the next scale, once all optimisers have made their steps; RuntimeError where none has."""
        if not self.enabled:
            return
        if not self._overflows:
            raise RuntimeError("GradScaler.update: no gradients were unscaled since the last update; call step() first")
        scale, overflow = self._scale, zeros((), dtype="bool", device=self._scale.device)
        for each in self._overflows.values():
            overflow = F.logical_or(overflow, each.to(scale.device))
        tracker = F.where(overflow, 0, self._growth_tracker + 1)
        grown = scale * self.growth_factor
        is_due = tracker == self.growth_interval
        self._growth_tracker.copy_(F.where(is_due, 0, tracker))
        unharmed = F.where(F.logical_and(is_due, F.isfinite(grown)), grown, scale)
        scale.copy_(F.where(overflow, scale * self.backoff_factor, unharmed))
        self._forget()

    def _forget(self) -> None:
        self._overflows.clear()
        self._stepped.clear()

    def _captured(self) -> list[Any]:
        """What a captured step has of this scaler."""
        return [*(getattr(self, name) for name in _SETTINGS), self._scale._array, self._growth_tracker._array]

    def get_scale(self) -> float:
        """The scale as a number; 1 if not enabled."""
        return float(self._scale) if self.enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Scale, settings and count as plain numbers; empty if not enabled."""
        if not self.enabled:
            return {}
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return {"scale": float(self._scale), **settings, "growth_tracker": int(self._growth_tracker)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues from what ``state_dict`` returned; CheckpointError if something is missing. Else as that one."""
        if not self.enabled:
            return
        missing = [name for name in ("scale", *_SETTINGS, "growth_tracker") if name not in state_dict]
        if missing:
            raise CheckpointError(f"GradScaler.load_state_dict: missing keys: {', '.join(missing)}")
        for name in _SETTINGS:
            setattr(self, name, state_dict[name])
        self._scale.fill_(state_dict["scale"])
        self._growth_tracker.fill_(state_dict["growth_tracker"])
