"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.arrays import where
from imgrec_engine.creation import zeros
from imgrec_engine.device import contiguous, empty, on, place
from imgrec_engine.dtypes import float64
from imgrec_engine.errors import DeviceError
from imgrec_engine.tensor import Tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [parameter.grad for parameter in given if parameter.grad is not None]
    for gradient in gradients:
        gradient._array = contiguous(gradient._array)
    return gradients


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients together so that their joint Euclidean norm is at most ``max_norm`` (Pascanu et al., 2013).

    Returns the norm before, a float64 tensor () on the device of the gradients, which is not waited for. Squares are
    summed in float64. Non-finite gradients stay as they are, and the norm that is returned says so.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([0.0, 0.0], requires_grad=True)
    >>> x.grad = ie.tensor([3.0, 4.0])
    >>> clip_grad_norm_([x], max_norm=1.0).item(), x.grad.numpy().round(3).tolist()
    (5.0, [0.6000000238418579, 0.800000011920929])
    """
    if max_norm < 0:
        raise ValueError(f"clip_grad_norm_: max_norm is {max_norm}, expected 0 or more")
    gradients = _gradients(parameters)
    if not gradients:
        return zeros((), dtype=float64)
    places = sorted({gradient.device for gradient in gradients})
    if len(places) > 1:
        raise DeviceError(f"clip_grad_norm_: gradients are on {' and '.join(places)}, expected all on one device")
    with on(gradients[0]._array):
        norm = np.sqrt(_squared_norm(gradients))
        too_large = np.logical_and(np.isfinite(norm), norm > max_norm)
        factor = where(too_large, max_norm / (norm + 1e-6), 1.0, float64)
        for gradient in gradients:
            module, context = kernels.of(gradient._array)
            module.scale_in_place(context, gradient._array, factor)
            gradient._version.count += 1
        return Tensor(norm.reshape(()))


def _squared_norm(gradients: list[Tensor]) -> Any:
    """The sum of all their squares, a float64 array (1,) beside them."""
    squares = empty((len(gradients),), float64, gradients[0]._array)
    for position, gradient in enumerate(gradients):
        module, context = kernels.of(gradient._array)
        plan = module.squared_norm_plan(context, gradient.size)
        workspace = kernels.workspace(plan, gradient._array)
        module.squared_norm(context, squares[position : position + 1], gradient._array, workspace)
    return place(squares.sum(keepdims=True), type(squares))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limits every element of the gradients to [-clip_value, clip_value].

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([0.0, 0.0], requires_grad=True)
    >>> x.grad = ie.tensor([-3.0, 0.5])
    >>> clip_grad_value_([x], 1.0)
    >>> x.grad.tolist()
    [-1.0, 0.5]
    """
    if clip_value < 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}, expected 0 or more")
    for gradient in _gradients(parameters):
        with on(gradient._array):
            gradient.copy_(np.clip(gradient._array, -clip_value, clip_value))
