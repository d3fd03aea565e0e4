"""Checking gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.dtypes import float64
from imgrec_engine.tensor import Tensor, tensor


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
) -> float:
    """Compares the gradients of ``function(*inputs)`` with central differences, element by element.

    All outputs are weighted with fixed random numbers and summed, so that every path counts. Inputs that require a
    gradient must be float64. Returns the largest absolute difference; AssertionError names the input and the element
    that disagrees, or where the function has a kink, at which no gradient exists to compare with.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([0.5, 2.0], dtype="float64", requires_grad=True)
    >>> gradcheck(lambda x: x * x, [x]) < 1e-6
    True
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs
    weights: list[Tensor] = []

    def scalar() -> Tensor:
        outputs = function(*inputs)
        parts = [y for y in (outputs if isinstance(outputs, (tuple, list)) else (outputs,)) if y.dtype == float64]
        if not weights:
            generator = np.random.Generator(np.random.Philox(0))
            weights.extend(tensor(generator.standard_normal(y.shape)) for y in parts)
        total: Tensor = (parts[0] * weights[0]).sum()
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            total = total + (part * weight).sum()
        return total

    checked = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: none of the inputs requires a gradient")
    for x in checked:
        if x.dtype != float64:
            raise ValueError(f"gradcheck: an input is {x.dtype.name}; finite differences need float64")
        x.grad = None
    center = scalar()
    center.backward()
    worst = 0.0
    for position, x in enumerate(checked):
        analytic = np.zeros(x.shape) if x.grad is None else x.grad.numpy()
        numeric = _differences(x, scalar, float(center.detach()), eps, position)
        difference = np.abs(analytic - numeric)
        bad = np.argwhere(difference > atol + rtol * np.abs(numeric))
        if bad.size:
            at = tuple(int(i) for i in bad[0])
            raise AssertionError(
                f"gradcheck: input {position} of shape {x.shape} at {at}: backward gives {analytic[at]:.8g}, "
                f"finite differences {numeric[at]:.8g}; {len(bad)} of {x.size} elements disagree"
            )
        worst = max(worst, float(difference.max(initial=0.0)))
        x.grad = None
    return worst


def _differences(
    x: Tensor, scalar: Callable[[], Tensor], center: float, eps: float, position: int
) -> NDArray[np.float64]:
    """Central differences of a scalar with respect to each element of x."""
    values = x.numpy()
    result = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        before = values[at]
        values[at] = before + eps
        above = float(scalar().detach())
        values[at] = before - eps
        below = float(scalar().detach())
        values[at] = before
        result[at] = (above - below) / (2 * eps)
        # A smooth function's second difference is of order eps; at a kink the two slopes differ by something finite.
        if abs(above - 2 * center + below) / eps > 1e-2 * (1 + abs(result[at])):
            raise AssertionError(f"gradcheck: input {position} at {at}: the function has a kink within {eps} of it")
    return result
