"""The loss of classification, for labels that are classes and for labels that were mixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data import Dataset
from imgrec_engine.functional import cross_entropy, log_softmax
from imgrec_engine.tensor import Tensor, tensor


@dataclass(frozen=True)
class ClassificationLoss:
    """The mean cross entropy of logits (N, classes) with labels: classes int64 (N,), or shares of them (N, classes).

    ``label_smoothing`` s leaves 1 - s of every label and spreads s over all classes. ``class_weights`` (classes,), on
    the device of the logits, scale each class's share of the loss, and the mean is divided by the weights of the
    labels. Labels that are shares of 0 and 1 give what classes give.

    >>> import imgrec_engine as ie
    >>> loss, logits = ClassificationLoss(label_smoothing=0.1), ie.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> [round(loss(logits, ie.tensor(labels)).item(), 4) for labels in ([0, 1], [[1.0, 0.0], [0.0, 1.0]])]
    [0.2951, 0.2951]
    """

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a tensor ()."""
        weights = self.class_weights
        if labels.dtype.kind != "f":
            loss: Tensor = cross_entropy(logits, labels, weights, self.label_smoothing)
            return loss
        shares = labels * (1 - self.label_smoothing) + self.label_smoothing / labels.shape[-1]
        if weights is None:
            mixed: Tensor = -(shares * log_softmax(logits)).sum() / len(labels)
            return mixed
        weighted: Tensor = -(shares * weights * log_softmax(logits)).sum() / (labels * weights).sum()
        return weighted


def balancing_weights(dataset: Dataset) -> Tensor:
    """Weights that give all classes the same part in the loss: items / (classes * items of the class).

    >>> from imgrec_engine.data import ArrayDataset
    >>> balancing_weights(ArrayDataset(np.zeros((5, 8, 8), np.uint8), [0, 1, 1, 1, 1], ("rare", "common"))).tolist()
    [2.5, 0.625]
    """
    counts: NDArray[np.int64] = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return tensor(len(dataset) / (len(counts) * np.maximum(counts, 1)), dtype="float32")
