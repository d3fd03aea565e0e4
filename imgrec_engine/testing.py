"""Checking gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.dtypes import float64
from imgrec_engine.tensor import Tensor, tensor

Values: TypeAlias = NDArray[np.float64]
Slope: TypeAlias = Callable[[Sequence[Values], Sequence[Values], str], float]
Allowed: TypeAlias = Callable[[Values], Values]


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    directions: int | None = None,
) -> float:
    """Compares the gradients of ``function(*inputs)`` with central differences.

    All outputs are weighted with fixed random numbers and summed, so that every path counts. Inputs that require a
    gradient must be float64. Returns the largest absolute difference; AssertionError names the input and the element
    that disagrees, or where the function has a kink, at which no gradient exists to compare with.

    The function is called twice for every element of the inputs. Where that takes too long, ``directions`` is a number
    of fixed random directions v in the space of all inputs together: the derivative of the sum along each of them is
    compared with the inner product of v and the gradients, to within what is allowed for one typical element.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([0.5, 2.0], dtype="float64", requires_grad=True)
    >>> gradcheck(lambda x: x * x, [x]) < 1e-6, gradcheck(lambda x: x * x, [x], directions=2) < 1e-6
    (True, True)
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs
    weights: list[Tensor] = []

    def scalar() -> Tensor:
        outputs = function(*inputs)
        parts = [y for y in (outputs if isinstance(outputs, (tuple, list)) else (outputs,)) if y.dtype == float64]
        if not weights:
            generator = np.random.Generator(np.random.Philox(0))
            weights.extend(tensor(generator.standard_normal(y.shape), device=y.device) for y in parts)
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
    gradients = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in checked]
    for x in checked:
        x.grad = None

    def slope(values: Sequence[Values], direction: Sequence[Values], where: str) -> float:
        return _slope(values, direction, lambda: float(scalar().detach()), float(center.detach()), eps, where)

    def allowed(numeric: Values) -> Values:
        return atol + rtol * np.abs(numeric)

    values = [x.numpy() for x in checked]
    if directions is not None:
        return _check_directions(values, gradients, slope, allowed, directions)
    return _check_elements(values, gradients, slope, allowed)


def _check_elements(values: list[Values], gradients: list[Values], slope: Slope, allowed: Allowed) -> float:
    """Compares the gradient of each element; the largest difference."""
    worst = 0.0
    for position, (x, analytic) in enumerate(zip(values, gradients, strict=True)):
        numeric = np.empty(x.shape)
        for at in np.ndindex(x.shape):
            numeric[at] = slope([x[(*at, ...)]], [np.ones(())], f"input {position} at {at}")
        difference = np.abs(analytic - numeric)
        bad = np.argwhere(~(difference <= allowed(numeric)))  # NaN is bad
        if bad.size:
            at = tuple(int(i) for i in bad[0])
            raise AssertionError(
                f"gradcheck: input {position} of shape {x.shape} at {at}: backward gives {analytic[at]:.8g}, "
                f"finite differences {numeric[at]:.8g}; {len(bad)} of {x.size} elements disagree"
            )
        worst = max(worst, float(difference.max(initial=0.0)))
    return worst


def _check_directions(
    values: list[Values], gradients: list[Values], slope: Slope, allowed: Allowed, count: int
) -> float:
    """Compares the derivatives along random directions; the largest difference."""
    generator = np.random.Generator(np.random.Philox(1))
    length = math.sqrt(
        max(sum(x.size for x in values), 1)
    )  # of a direction: the derivative is that of so many elements
    worst = 0.0
    for number in range(count):
        direction = [generator.standard_normal(x.shape) for x in values]
        where = f"inputs of shapes {[x.shape for x in values]} along direction {number}"
        numeric = slope(values, direction, where)
        analytic = sum(float((v * gradient).sum()) for v, gradient in zip(direction, gradients, strict=True))
        difference = abs(analytic - numeric)
        if not difference <= allowed(np.asarray(numeric / length)):  # what one element may be off by
            raise AssertionError(f"gradcheck: {where}: backward gives {analytic:.8g}, finite differences {numeric:.8g}")
        worst = max(worst, difference)
    return worst


def _slope(
    values: Sequence[Values],
    direction: Sequence[Values],
    scalar: Callable[[], float],
    center: float,
    eps: float,
    where: str,
) -> float:
    """The central difference of a scalar when the values, which it reads, move along a direction."""
    before = [x.copy() for x in values]

    def move(step: float) -> None:
        for x, start, v in zip(values, before, direction, strict=True):
            x[...] = start + step * v

    move(eps)
    above = scalar()
    move(-eps)
    below = scalar()
    move(0.0)
    result = (above - below) / (2 * eps)
    # A smooth function's second difference is of order eps; at a kink the two slopes differ by something finite.
    if abs(above - 2 * center + below) / eps > 1e-2 * (1 + abs(result)):
        raise AssertionError(f"gradcheck: {where}: the function has a kink within {eps} of it")
    return result
