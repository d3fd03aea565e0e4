"""Activations: element-wise functions between layers."""

from __future__ import annotations

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty_like

__all__ = ["gelu", "relu", "sigmoid", "silu", "tanh"]

_KINDS = ("relu", "gelu", "silu", "sigmoid", "tanh")


def activation_name(op: str, activation: str | None) -> str:
    """What the kernels call the activation that an op ends with: "" for None; ValueError where there is no such."""
    if activation not in (None, *_KINDS):
        raise ValueError(f"{op}: activation is {activation!r}, expected None or one of {', '.join(_KINDS)}")
    return activation or ""


def _activate(name: str, x: Array, saves_result: bool) -> Result:
    """Runs one of the kernels; its gradient is found from the result or from ``x``."""
    x = contiguous(x)
    module, context = kernels.of(x)
    y = empty_like(x)
    module.activation_forward(context, y, x, name)
    saved = y if saves_result else x

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty_like(saved)
        module.activation_backward(context, dx, contiguous(dy), saved, name)
        return (dx,)

    return y, backward


@differentiable
def relu(x: Array) -> Result:
    """max(x, 0), element by element; its gradient at 0 is 0.

    >>> import imgrec_engine as ie
    >>> relu(ie.tensor([-1.0, 2.0])).numpy()
    array([0., 2.], dtype=float32)
    """
    return _activate("relu", x, saves_result=True)


@differentiable
def gelu(x: Array) -> Result:
    """The Gaussian error linear unit x Phi(x), in its exact form (Hendrycks and Gimpel, 2016).

    >>> import imgrec_engine as ie
    >>> gelu(ie.tensor([0.0, 1.0])).numpy().round(4)
    array([0.    , 0.8413], dtype=float32)
    """
    return _activate("gelu", x, saves_result=False)


@differentiable
def silu(x: Array) -> Result:
    """X sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2018).

    >>> import imgrec_engine as ie
    >>> silu(ie.tensor([0.0, 1.0])).numpy().round(4)
    array([0.    , 0.7311], dtype=float32)
    """
    return _activate("silu", x, saves_result=False)


@differentiable
def sigmoid(x: Array) -> Result:
    """1 / (1 + exp(-x)).

    >>> import imgrec_engine as ie
    >>> sigmoid(ie.tensor([0.0])).item()
    0.5
    """
    return _activate("sigmoid", x, saves_result=True)


@differentiable
def tanh(x: Array) -> Result:
    """The hyperbolic tangent.

    >>> import imgrec_engine as ie
    >>> tanh(ie.tensor([0.0])).item()
    0.0
    """
    return _activate("tanh", x, saves_result=True)
