"""Steps of optimisers alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from benchmarks.cases.case import SEED, STEP, Arrays, Framework, Input, Program, Variant, Work

SHAPES = ((64, 3, 3, 64),) * 10 + ((256,),) * 20 + ((512, 512),) * 4  # as in a small residual network
CHECKED_STEPS = 3


@dataclass(frozen=True)
class AdamW:
    """One step over many parameters of many sizes."""

    family: str = "optimizer"
    modes: tuple[str, ...] = (STEP,)

    @property
    def name(self) -> str:
        """How many parameters."""
        return f"AdamW, {len(SHAPES)} parameters of {self.elements / 1e6:.2g}M elements"

    @property
    def elements(self) -> int:
        """Of all parameters together."""
        return sum(Input(shape).bytes // 4 for shape in SHAPES)

    def variants(self, framework: str, mode: str) -> tuple[Variant, ...]:
        """PyTorch has three implementations."""
        if framework == "torch":
            settings: dict[str, dict[str, bool]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {}}
            return tuple(Variant(functools.partial(_adamw, way), name=name) for name, way in settings.items())
        return (Variant(functools.partial(_adamw, {})),) if framework == "ours" else ()

    def program(self, framework: Framework, mode: str, variant: Variant, weights: Arrays) -> Program:
        """The results are the parameters after some steps."""
        arrays = [Input(shape).draw(SEED + i) for i, shape in enumerate(SHAPES)]
        parameters = [framework.tensor(array, requires_grad=True) for array in arrays]
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.grad = framework.tensor(array * 0.01)
        optimizer = variant.build(framework.module)(parameters)

        def results() -> Arrays:
            for _ in range(CHECKED_STEPS):
                optimizer.step()
            return {f"parameter {i}": framework.numpy(parameter) for i, parameter in enumerate(parameters)}

        return Program(optimizer.step, results)

    def work(self, mode: str) -> Work:
        """Parameter, gradient and two averages are read, all but the gradient written."""
        return Work(15.0 * self.elements, 4.0 * 7 * self.elements)


def _adamw(settings: dict[str, bool], module: Any) -> Any:
    return functools.partial(module.optim.AdamW, lr=1e-3, **settings)


OPTIMIZER = (AdamW(),)
