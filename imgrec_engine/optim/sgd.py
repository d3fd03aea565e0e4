"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.creation import zeros
from imgrec_engine.device import contiguous
from imgrec_engine.dtypes import float32, float64
from imgrec_engine.optim.optimizer import Group, Optimizer, check_setting, progress
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

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group) -> None:
        """One fused pass over the parameter, the gradient and the momentum buffer."""
        if group["momentum"] and not state:
            state["momentum_buffer"] = zeros(parameter.shape, dtype=buffer_dtype(parameter), device=parameter.device)
        buffer = state["momentum_buffer"]._array if group["momentum"] else None
        array = parameter._array
        module, context = kernels.of(array)
        parameter._write("SGD.step")
        module.sgd_update(
            context,
            array,
            buffer,
            contiguous(gradient._array),
            progress(group, 1, array),
            group["momentum"],
            group["weight_decay"],
            group["nesterov"],
        )


def buffer_dtype(parameter: Tensor) -> np.dtype[np.generic]:
    """The dtype of an optimiser's running averages: float32 for the 16-bit dtypes, which could not hold them."""
    return float64 if parameter.dtype == float64 else float32
