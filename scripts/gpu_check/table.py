"""The op table of the tests, as the stages use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import test_ops as bodies
from op_cases import CASES

from gpu_check.stage import Setting

REHEARSED = ("add", "conv2d", "lstm", "scaled_dot_product_attention", "batch_norm", "cross_entropy", "dropout")


def cases(setting: Setting) -> list[Any]:
    """All rows of the table; in a rehearsal a few, whose kernels are of all kinds."""
    return [case for case in CASES if not setting.rehearsal or case.name in REHEARSED]


def largest_sample(case: Any) -> Any:
    """The call with the most elements in its arguments."""

    def elements(sample: Any) -> int:
        args, kwargs = bodies.arguments(case, sample, lambda array: array)
        return sum(array.size for array in [*args, *kwargs.values()] if hasattr(array, "size"))

    return max(case.samples, key=elements)


def results(case: Any, sample: Any, dtype: Any, device: str) -> list[Any]:
    """Outputs and gradients, those that there are, as NumPy's arrays."""
    convert = bodies.to_tensor(dtype, device, requires_grad=case.differentiable)
    outputs, gradients = bodies.forward_and_backward(case, sample, convert)
    return [array for array in [*outputs, *gradients] if array is not None]


def tolerance(case: Any, dtype: Any) -> float:
    """What the tests allow, relative to the largest element, for a result of this dtype."""
    return float(bodies.TOLERANCES[dtype][0]) * max(1.0, math.sqrt(case.reduction))


def bits(arrays: Sequence[Any]) -> list[bytes]:
    """What makes two results equal to the last bit."""
    return [array.tobytes() for array in arrays]
