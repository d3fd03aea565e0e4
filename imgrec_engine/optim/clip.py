"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.device import contiguous, empty, on
from imgrec_engine.dtypes import float64
from imgrec_engine.errors import DeviceError
from imgrec_engine.optim.optimizer import number_beside
from imgrec_engine.tensor import Tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [parameter.grad for parameter in given if parameter.grad is not None]
    for gradient in gradients:
        gradient._array = contiguous(gradient._array)
    return gradients


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """Scales all gradients together so that their joint Euclidean norm is at most ``max_norm`` (Pascanu et al., 2013).

    Returns the norm before. Squares are summed in float64. Non-finite gradients stay as they are, and the norm that is
    returned says so.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([0.0, 0.0], requires_grad=True)
    >>> x.grad = ie.tensor([3.0, 4.0])
    >>> clip_grad_norm_([x], max_norm=1.0), x.grad.numpy().round(3).tolist()
    (5.0, [0.6000000238418579, 0.800000011920929])
    """
    if max_norm < 0:
        raise ValueError(f"clip_grad_norm_: max_norm is {max_norm}, expected 0 or more")
    gradients = _gradients(parameters)
    if not gradients:
        return 0.0
    places = sorted({gradient.device for gradient in gradients})
    if len(places) > 1:
        raise DeviceError(f"clip_grad_norm_: gradients are on {' and '.join(places)}, expected all on one device")
    lists: dict[Any, list[Any]] = {}
    for gradient in gradients:
        lists.setdefault(gradient.dtype, []).append(gradient._array)
    with on(gradients[0]._array):
        norm = math.sqrt(sum(_squared_norm(arrays) for arrays in lists.values()))
        if math.isfinite(norm) and norm > max_norm:
            for arrays in lists.values():
                module, context = kernels.of(arrays[0])
                module.scale_in_place(context, arrays, number_beside(max_norm / (norm + 1e-6), arrays[0]))
            for gradient in gradients:
                gradient._version.count += 1
    return norm


def _squared_norm(arrays: list[Any]) -> float:
    module, context = kernels.of(arrays[0])
    out = empty((1,), float64, arrays[0])
    workspace = kernels.workspace(module.squared_norm_plan(context, arrays), arrays[0])
    module.squared_norm(context, out, arrays, workspace)
    return float(out.item())


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
