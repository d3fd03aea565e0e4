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


def gradients_of(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are, made contiguous."""
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
    gradients = gradients_of(parameters)
    if not gradients:
        return zeros((), dtype=float64)
    places = sorted({gradient.device for gradient in gradients})
    if len(places) > 1:
        raise DeviceError(f"clip_grad_norm_: gradients are on {' and '.join(places)}, expected all on one device")
    with on(gradients[0]._array):
        norm = np.sqrt(place(squared_norms(gradients).sum(keepdims=True), type(gradients[0]._array)))
        too_large = np.logical_and(np.isfinite(norm), norm > max_norm)
        scale_gradients(gradients, where(too_large, max_norm / (norm + 1e-6), 1.0, float64))
        return Tensor(norm.reshape(()))


def squared_norms(gradients: list[Tensor]) -> Any:
    """The sum of squares over the gradients of each dtype, all contiguous and on the current device, in float64."""
    lists = _by_dtype(gradients)
    squares = empty((len(lists),), float64, gradients[0]._array)
    for position, arrays in enumerate(lists):
        module, context = kernels.of(arrays[0])
        workspace = kernels.workspace(module.squared_norm_plan(context, arrays), arrays[0])
        module.squared_norm(context, squares[position : position + 1], arrays, workspace)
    return squares


def scale_gradients(gradients: list[Tensor], factor: Any) -> None:
    """Multiplies contiguous gradients in place by a float64 array of one number beside them."""
    for arrays in _by_dtype(gradients):
        module, context = kernels.of(arrays[0])
        module.scale_in_place(context, arrays, factor)
    for gradient in gradients:
        gradient._version.advance()


def _by_dtype(gradients: list[Tensor]) -> list[list[Any]]:
    """The gradients' arrays, those of one dtype together: what one launch serves."""
    lists: dict[Any, list[Any]] = {}
    for gradient in gradients:
        lists.setdefault(gradient.dtype, []).append(gradient._array)
    return list(lists.values())


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
    for gradient in gradients_of(parameters):
        with on(gradient._array):
            gradient.copy_(np.clip(gradient._array, -clip_value, clip_value))
