"""Normalisation layers, over the last axis: the channels."""

from __future__ import annotations

from collections.abc import Sequence

from imgrec_engine import functional as F
from imgrec_engine.creation import ones, zeros
from imgrec_engine.errors import ShapeError
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.tensor import Tensor


class _BatchNorm(Module):
    """What the batch normalisation layers have in common."""

    dimensions: dict[int, str]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = Parameter(ones(num_features))
        self.bias = Parameter(zeros(num_features))
        self.register_buffer("running_mean", zeros(num_features))
        self.register_buffer("running_var", ones(num_features))
        self.register_buffer("num_batches_tracked", zeros((), dtype="int64"))

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Normalises x; in training mode by the batch's statistics, and updates the running ones.

        An activation that follows ("relu", "gelu", "silu", "sigmoid" or "tanh") is applied in the same pass.
        """
        if x.ndim not in self.dimensions or x.shape[-1] != self.num_features:
            expected = " or ".join(self.dimensions.values()).replace("C", str(self.num_features))
            raise ShapeError(f"{type(self).__name__}: x has shape {x.shape}, expected {expected}")
        if self.training:
            self.num_batches_tracked.copy_(self.num_batches_tracked + 1)  # on a GPU, without asking it
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self.training, self.momentum, self.eps, activation)

    def extra_repr(self) -> str:
        """Its features, and whatever is not the default."""
        eps = "" if self.eps == 1e-5 else f", eps={self.eps}"
        momentum = "" if self.momentum == 0.1 else f", momentum={self.momentum}"
        return f"{self.num_features}{eps}{momentum}"


class BatchNorm1d(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy, 2015) of features (N, C) or sequences (N, T, C).

    >>> import imgrec_engine as ie
    >>> ie.nn.BatchNorm1d(3)(ie.randn(8, 3)).shape
    (8, 3)
    """

    dimensions = {2: "(N, C)", 3: "(N, T, C)"}  # noqa: RUF012


class BatchNorm2d(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy, 2015) of images (N, H, W, C).

    ``running_var`` is the unbiased estimate and moves towards each batch's by ``momentum``, as PyTorch's.

    >>> import imgrec_engine as ie
    >>> norm = ie.nn.BatchNorm2d(3)
    >>> norm(ie.randn(8, 4, 4, 3)).shape, norm.num_batches_tracked.item()
    ((8, 4, 4, 3), 1)
    """

    dimensions = {4: "(N, H, W, C)"}  # noqa: RUF012


class LayerNorm(Module):
    """Layer normalisation (Ba, Kiros and Hinton, 2016) over the last axis, of length ``normalized_shape``.

    The length may be given as a shape of one axis, ``(4,)``.

    >>> import imgrec_engine as ie
    >>> ie.nn.LayerNorm(4)(ie.randn(2, 5, 4)).shape
    (2, 5, 4)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if len(shape) != 1:
            raise ShapeError(f"LayerNorm: normalized_shape is {shape}, expected one length, that of the last axis")
        (self.normalized_shape,) = shape
        self.eps = eps
        self.weight = Parameter(ones(shape)) if elementwise_affine else None
        self.bias = Parameter(zeros(shape)) if elementwise_affine else None

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Normalises x (..., normalized_shape), and applies an activation that follows in the same pass."""
        if x.shape[-1:] != (self.normalized_shape,):
            raise ShapeError(f"LayerNorm: x has shape {x.shape}, expected (..., {self.normalized_shape})")
        return F.layer_norm(x, self.weight, self.bias, self.eps, activation)

    def extra_repr(self) -> str:
        """The length of the axis, and whatever is not the default."""
        eps = "" if self.eps == 1e-5 else f", eps={self.eps}"
        return f"{self.normalized_shape}{eps}" + (", elementwise_affine=False" if self.weight is None else "")
