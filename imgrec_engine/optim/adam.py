"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable

from imgrec_engine import kernels
from imgrec_engine.creation import zeros
from imgrec_engine.device import contiguous
from imgrec_engine.optim.optimizer import Group, Optimizer, advance, check_setting, progress
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

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group) -> None:
        """One fused pass over the parameter, the gradient and both averages."""
        if not state:
            dtype = buffer_dtype(parameter)
            state["step"] = zeros((), dtype="int64", device=parameter.device)
            state["exp_avg"] = zeros(parameter.shape, dtype=dtype, device=parameter.device)
            state["exp_avg_sq"] = zeros(parameter.shape, dtype=dtype, device=parameter.device)
        array, step, name = parameter._array, state["step"], f"{type(self).__name__}.step"
        step._write(name)
        advance(step._array)
        module, context = kernels.of(array)
        parameter._write(name)
        module.adam_update(
            context,
            array,
            state["exp_avg"]._array,
            state["exp_avg_sq"]._array,
            contiguous(gradient._array),
            progress(group, step._array, array),
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            self.decoupled,
        )


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
