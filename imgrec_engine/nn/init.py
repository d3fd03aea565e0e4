"""Initial values, written into a tensor in place; each function returns the tensor.

Fans are counted for our layouts: a weight (out, ..., in) has fan_in = in * product(...) and
fan_out = out * product(...), which covers Linear (out, in) and Conv2d (C_out, KH, KW, C_in / groups).
"""

from __future__ import annotations

import math

import numpy as np

from imgrec_engine.autograd import no_grad
from imgrec_engine.errors import ShapeError
from imgrec_engine.random import rand, randn
from imgrec_engine.tensor import Tensor

_GAINS = {
    "linear": 1.0,
    "conv2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 0.75,
}


def calculate_gain(nonlinearity: str, param: float = 0.01) -> float:
    """The factor by which the deviation of weights before this non-linearity is enlarged, as PyTorch recommends it.

    ``param`` is the negative slope of "leaky_relu".

    >>> round(calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + param**2))
    if nonlinearity not in _GAINS:
        names = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"calculate_gain: nonlinearity is {nonlinearity!r}, expected one of {names}")
    return _GAINS[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs each output of this weight sums over, and the reverse."""
    if tensor.ndim < 2:
        raise ShapeError(f"init: a tensor of shape {tensor.shape} has no fans; expected two dimensions or more")
    window = math.prod(tensor.shape[1:-1])
    return tensor.shape[-1] * window, tensor.shape[0] * window


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform numbers in [a, b)."""
    return tensor.copy_(rand(tensor.shape, dtype=tensor.dtype, low=a, high=b))


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal numbers."""
    return tensor.copy_(randn(tensor.shape, dtype=tensor.dtype, mean=mean, std=std))


@no_grad()
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal numbers conditioned on lying in [a, b], by inverting the distribution function."""
    from statistics import NormalDist  # its import takes as long as all of nn's

    if not a < b:
        raise ValueError(f"trunc_normal_: the interval is [{a}, {b}], expected a < b")
    normal = NormalDist(mean, std)
    probabilities = rand(tensor.shape, dtype="float64", low=normal.cdf(a), high=normal.cdf(b)).numpy()
    inside = np.clip(probabilities, 1e-300, np.nextafter(1.0, 0.0)).ravel()
    values = np.fromiter(map(normal.inv_cdf, inside), np.float64, inside.size)
    return tensor.copy_(np.clip(values, a, b).reshape(tensor.shape))


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    >>> import imgrec_engine as ie
    >>> bool((abs(xavier_uniform_(ie.zeros((3, 3))).numpy()) <= 1).all())
    True
    """
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode is {mode!r}, expected 'fan_in' or 'fan_out'")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Uniform with deviation gain / sqrt(fan) (He et al., 2015); ``a`` is the slope that "leaky_relu" has below 0."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with deviation gain / sqrt(fan) (He et al., 2015); ``a`` is the slope that "leaky_relu" has below 0."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


@no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random (semi-)orthogonal matrix times ``gain`` (Saxe et al., 2013); trailing dimensions count as columns."""
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: a tensor of shape {tensor.shape}, expected two dimensions or more")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    draw = randn((max(rows, columns), min(rows, columns)), dtype="float64").numpy()
    q, r = np.linalg.qr(draw)
    q = q * np.sign(np.diag(r))  # makes the distribution uniform over orthogonal matrices
    return tensor.copy_(gain * (q if rows >= columns else q.T).reshape(tensor.shape))
