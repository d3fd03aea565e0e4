"""Cases of one operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cases.case import BOTH, FORWARD, SEED, Arrays, Framework, Input, Program, Variant, Variants, Work


@dataclass(frozen=True)
class Operation:
    """One function of some arrays, with gradients for those that are floating.

    ``ways`` holds the variants by framework, whose functions take the inputs in order and return one tensor, of
    ``output`` elements. ``flop`` is that of the forward pass, ``backward_flop`` how many times that the backward adds.
    """

    family: str
    name: str
    inputs: Mapping[str, Input]
    output: int
    ways: Variants
    flop: float
    modes: tuple[str, ...] = (FORWARD, BOTH)
    backward_flop: float = 2.0

    def variants(self, framework: str, mode: str) -> tuple[Variant, ...]:
        """Those of the framework; ONNX graphs have no gradients."""
        return self.ways.get(framework, ()) if mode == FORWARD or framework != "onnxruntime" else ()

    def program(self, framework: Framework, mode: str, variant: Variant, weights: Arrays) -> Program:
        """The function bound to its inputs, with a fixed random gradient of the output for a backward pass."""
        layout, function = variant.layout, variant.build(framework.module)
        arrays = {name: given.draw(SEED + i) for i, (name, given) in enumerate(self.inputs.items())}
        leaves = {
            name: framework.tensor(layout.of(array), requires_grad=mode != FORWARD and array.dtype.kind == "f")
            for name, array in arrays.items()
        }
        operands = list(leaves.values())

        def forward() -> Any:
            return function(*operands)

        def output() -> Arrays:
            with framework.no_grad():
                return {"output": layout.back(framework.numpy(forward()))}

        if mode == FORWARD:
            return Program(forward, output, framework.no_grad)
        if mode != BOTH:
            return Program(forward, output)
        dy = framework.tensor(layout.of(Input(output()["output"].shape).draw(SEED - 1)))
        differentiable = {name: leaf for name, leaf in leaves.items() if arrays[name].dtype.kind == "f"}

        def step() -> Any:
            for leaf in differentiable.values():
                leaf.grad = None
            function(*operands).backward(dy)

        def results() -> Arrays:
            step()
            gradients = {f"gradient of {k}": layout.back(framework.numpy(v.grad)) for k, v in differentiable.items()}
            return output() | gradients

        return Program(step, results)

    def work(self, mode: str) -> Work:
        """Forward: inputs are read, the output written. Backward: both are read, gradients of the inputs written."""
        read, written = sum(given.bytes for given in self.inputs.values()), 4 * self.output
        if mode == BOTH:
            return Work(self.flop * (1 + self.backward_flop), 3.0 * read + 2.0 * written)
        return Work(self.flop, read + written)
