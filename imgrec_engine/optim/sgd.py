"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.creation import zeros
from imgrec_engine.dtypes import float32, float64
from imgrec_engine.optim.optimizer import (
    Group,
    Optimizer,
    check_setting,
    flag_array,
    gradient_arrays,
    number_beside,
    write_arrays,
)
from imgrec_engine.tensor import Tensor


class SGD(Optimizer):
    """Gradient descent with momentum, in PyTorch's form (Sutskever et al., ICML 2013).

    g = gradient + weight_decay p; b = momentum b + g; p -= lr b, or p -= lr (g + momentum b) with ``nesterov``.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([x], lr=0.1, momentum=0.9)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x.numpy()
    array([0.8], dtype=float32)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        for name, value in [("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)]:
            check_setting("SGD", name, value)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, settings)

    def update_together(self, parameters: list[Tensor], group: Group, skip: Tensor | None) -> None:
        """One fused pass over all parameters, gradients and momentum buffers."""
        buffers = [self._momentum_buffer(parameter)._array for parameter in parameters if group["momentum"]]
        arrays = write_arrays(parameters, "SGD.step")
        module, context = kernels.of(arrays[0])
        module.sgd_update(
            context,
            arrays,
            buffers,
            gradient_arrays(parameters),
            flag_array(skip),
            number_beside(lambda: group["lr"], arrays[0]),
            number_beside(lambda: group["momentum"], arrays[0]),
            group["weight_decay"],
            group["nesterov"],
        )

    def recorded(self, group: Group) -> Group:
        """Of momentum whether there is any: how much is read anew."""
        return {**super().recorded(group), "momentum": group["momentum"] > 0}

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = zeros(parameter.shape, dtype=buffer_dtype(parameter), device=parameter.device)
        return state["momentum_buffer"]


def buffer_dtype(parameter: Tensor) -> np.dtype[np.generic]:
    """The dtype of an optimiser's running averages: float32 for the 16-bit dtypes, which could not hold them."""
    return float64 if parameter.dtype == float64 else float32
