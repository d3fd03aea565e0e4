"""How well predictions agree with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]


def accuracy(scores: NDArray[Any], labels: Labels, top: int = 1) -> float:
    """The share of rows of ``scores`` (N, classes) whose label is among the ``top`` highest; NaN for no rows.

    >>> accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    0.5
    """
    if not len(labels):
        return float("nan")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(predictions: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): row the true class, column the predicted one.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: mean loss, accuracy, and the confusion matrix (row true, column predicted)."""

    loss: float
    accuracy: float
    confusion: NDArray[np.int64]

    def recall(self) -> NDArray[np.float64]:
        """For each class, the share of its images that were recognised; NaN where it has none."""
        counts = self.confusion.sum(axis=1)
        return np.where(counts > 0, self.confusion.diagonal() / np.maximum(counts, 1), np.nan)

    def precision(self) -> NDArray[np.float64]:
        """For each class, the share of predictions of it that were right; NaN where there were none."""
        counts = self.confusion.sum(axis=0)
        return np.where(counts > 0, self.confusion.diagonal() / np.maximum(counts, 1), np.nan)

    def report(self, classes: Sequence[str]) -> str:
        """A table of the classes and the confusion matrix, for people."""
        width = max(map(len, [*classes, "class"]))
        lines = [f"{'class':<{width}}  images  recall  precision"]
        columns = zip(classes, self.confusion.sum(axis=1), self.recall(), self.precision(), strict=True)
        for name, count, recall, precision in columns:
            lines.append(f"{name:<{width}}  {count:>6}  {recall:>6.3f}  {precision:>9.3f}")
        cell = max(len(str(self.confusion.max(initial=0))), len(str(len(classes) - 1)), 2) + 1
        lines += ["", "confusion matrix (row: true class, column: predicted, numbered as above from 0)"]
        lines.append(" " * width + "".join(f"{i:>{cell}}" for i in range(len(classes))))
        for name, row in zip(classes, self.confusion, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{n:>{cell}}" for n in row))
        lines += ["", f"accuracy {self.accuracy:.4f}, loss {self.loss:.4f}, {self.confusion.sum()} images"]
        return "\n".join(lines)
