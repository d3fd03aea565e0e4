"""Activations: element-wise functions between layers."""

from __future__ import annotations

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty_like

__all__ = ["gelu", "relu", "sigmoid", "silu", "tanh"]

_NAMES: dict[str | None, str] = {
    None: "",
    "relu": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
NEEDS_INPUT = ("gelu", "silu")  # they find their gradient from what they were applied to, the others from the result


def activation_name(op: str, activation: str | None) -> str:
    """What the kernels call the activation that an op ends with: "" for None; ValueError where there is no such."""
    name = _NAMES.get(activation)
    if name is None:
        expected = ", ".join(filter(None, _NAMES))
        raise ValueError(f"{op}: activation is {activation!r}, expected None or one of {expected}")
    return name


def activated(kind: str, x: Array) -> Array:
    """The activation of a contiguous array."""
    module, context = kernels.of(x)
    y = empty_like(x)
    module.activation_forward(context, y, x, kind)
    return y


def activation_gradient(kind: str, dy: Array, saved: Array) -> Array:
    """Dy times the derivative of an activation; ``saved`` is its result, or what NEEDS_INPUT were applied to."""
    module, context = kernels.of(saved)
    dx = empty_like(saved)
    module.activation_backward(context, dx, contiguous(dy), saved, kind)
    return dx


def _activate(kind: str, x: Array) -> Result:
    x = contiguous(x)
    y = activated(kind, x)
    saved = x if kind in NEEDS_INPUT else y

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (activation_gradient(kind, dy, saved),)

    return y, backward


@differentiable
def relu(x: Array) -> Result:
    """max(x, 0), element by element; its gradient at 0 is 0.

    >>> import imgrec_engine as ie
    >>> relu(ie.tensor([-1.0, 2.0])).numpy()
    array([0., 2.], dtype=float32)
    """
    return _activate("relu", x)


@differentiable
def gelu(x: Array) -> Result:
    """The Gaussian error linear unit x Phi(x), in its exact form (Hendrycks and Gimpel, 2016).

    >>> import imgrec_engine as ie
    >>> gelu(ie.tensor([0.0, 1.0])).numpy().round(4)
    array([0.    , 0.8413], dtype=float32)
    """
    return _activate("gelu", x)


@differentiable
def silu(x: Array) -> Result:
    """X sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2018).

    >>> import imgrec_engine as ie
    >>> silu(ie.tensor([0.0, 1.0])).numpy().round(4)
    array([0.    , 0.7311], dtype=float32)
    """
    return _activate("silu", x)


@differentiable
def sigmoid(x: Array) -> Result:
    """1 / (1 + exp(-x)).

    >>> import imgrec_engine as ie
    >>> sigmoid(ie.tensor([0.0])).item()
    0.5
    """
    return _activate("sigmoid", x)


@differentiable
def tanh(x: Array) -> Result:
    """The hyperbolic tangent.

    >>> import imgrec_engine as ie
    >>> tanh(ie.tensor([0.0])).item()
    0.0
    """
    return _activate("tanh", x)
