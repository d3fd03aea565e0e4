"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable

from imgrec_engine import kernels
from imgrec_engine.creation import zeros
from imgrec_engine.optim.optimizer import (
    Group,
    Optimizer,
    check_setting,
    flag_array,
    gradient_arrays,
    number_beside,
    write_arrays,
)
from imgrec_engine.optim.sgd import buffer_dtype
from imgrec_engine.tensor import Tensor


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015); ``weight_decay`` times the parameter joins the gradient.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) in step t.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([1.0], requires_grad=True)
    >>> optimizer = Adam([x], lr=0.1)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x.numpy().round(6)
    array([0.9], dtype=float32)
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        name = type(self).__name__
        for setting, value in [("lr", lr), ("eps", eps), ("weight_decay", weight_decay)]:
            check_setting(name, setting, value)
        for index, beta in enumerate(betas):
            check_setting(name, f"betas[{index}]", beta, below=1)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def update_together(self, parameters: list[Tensor], group: Group, skip: Tensor | None) -> None:
        """One fused pass over all parameters, gradients and averages."""
        states = [self._state_of(parameter) for parameter in parameters]
        averages = [[state[entry]._array for state in states] for entry in ("exp_avg", "exp_avg_sq", "step")]
        arrays = write_arrays(parameters, f"{type(self).__name__}.step")
        module, context = kernels.of(arrays[0])
        module.adam_update(
            context,
            arrays,
            *averages,
            gradient_arrays(parameters),
            flag_array(skip),
            number_beside(lambda: group["lr"], arrays[0]),
            number_beside(lambda: group["betas"][0], arrays[0]),
            group["betas"][1],
            group["eps"],
            group["weight_decay"],
            self.decoupled,
        )

    def recorded(self, group: Group) -> Group:
        """Of the betas the second: the first is read anew."""
        return {**super().recorded(group), "betas": group["betas"][1]}

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            dtype = buffer_dtype(parameter)
            state["step"] = zeros((), dtype="int64", device=parameter.device)
            state["exp_avg"] = zeros(parameter.shape, dtype=dtype, device=parameter.device)
            state["exp_avg_sq"] = zeros(parameter.shape, dtype=dtype, device=parameter.device)
        return state


class AdamW(Adam):
    """Adam with decoupled weight decay: p is scaled by 1 - lr weight_decay first (Loshchilov and Hutter, ICLR 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
