"""Losses as modules."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class CrossEntropyLoss(Module):
    """Cross entropy of logits (N, C) with class indices (N,); see `functional.cross_entropy`.

    >>> import imgrec_engine as ie
    >>> loss = ie.nn.CrossEntropyLoss(label_smoothing=0.1)
    >>> round(loss(ie.zeros((2, 4)), ie.tensor([0, 3])).item(), 4)  # log 4
    1.3863
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        self.weight: Tensor | None = None
        if weight is not None:
            self.register_buffer("weight", weight)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits (N, C) for the classes (N,)."""
        return F.cross_entropy(logits, targets, self.weight, self.label_smoothing, self.ignore_index, self.reduction)


class BCEWithLogitsLoss(Module):
    """Binary cross entropy of logits with targets in [0, 1] of the same shape."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits for targets of the same shape."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction=self.reduction)


class MSELoss(Module):
    """The mean squared difference of two tensors of one shape."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of x against a target of the same shape."""
        return F.mse_loss(x, target, reduction=self.reduction)
