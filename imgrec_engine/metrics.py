"""How well predictions agree with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import PADDING

Labels = NDArray[np.integer[Any]]
Rates = NDArray[np.float64]


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


def roc_curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[Rates, Rates]:
    """The shares (false positives, true positives) when all with a score of t or more are taken for positive.

    Both (K,), from 0 to 1, for t falling through the distinct ``scores`` (N,); NaN where a class is missing.

    >>> false, true = roc_curve(np.array([0.1, 0.6, 0.8]), np.array([False, True, True]))
    >>> false.tolist(), true.tolist()
    ([0.0, 0.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(scores)]  # of each run of equal scores
    true = np.append(0, np.cumsum(positive[order])[last])
    false = np.append(0, np.cumsum(~positive[order])[last])
    with np.errstate(invalid="ignore"):
        return false / false[-1], true / true[-1]


def roc_auc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """The area under `roc_curve`: how often a positive item scores higher than a negative one, a tie counting half.

    >>> roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    false, true = roc_curve(scores, positive)
    return float(np.trapezoid(true, false)) if len(scores) else float("nan")


def calibration_error(probabilities: NDArray[Any], labels: Labels, bins: int = 15) -> float:
    """How far the probability of the predicted class is from how often it is right: the expected calibration error.

    The rows of ``probabilities`` (N, classes) are put into ``bins`` of equal width by their greatest; the error is the
    mean over the rows of |accuracy - mean probability| of their bin; NaN for no rows. Guo et al., "On calibration of
    modern neural networks", ICML 2017.

    >>> round(calibration_error(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])), 3)
    0.4
    """
    if not len(labels):
        return float("nan")
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(np.int64)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: mean loss, and for each image its probabilities (N, classes) and label (N,)."""

    loss: float
    probabilities: NDArray[Any]
    labels: Labels

    @property
    def accuracy(self) -> float:
        """The share of images that were recognised; NaN for none."""
        return accuracy(self.probabilities, self.labels)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts (classes, classes): row the true class, column the predicted one."""
        return confusion_matrix(self.probabilities.argmax(axis=1), self.labels, self.probabilities.shape[1])

    def recall(self) -> Rates:
        """For each class, the share of its images that were recognised; NaN where it has none."""
        return _shares(self.confusion.diagonal(), self.confusion.sum(axis=1))

    def precision(self) -> Rates:
        """For each class, the share of predictions of it that were right; NaN where there were none."""
        return _shares(self.confusion.diagonal(), self.confusion.sum(axis=0))

    def f1(self) -> Rates:
        """For each class, the harmonic mean of recall and precision; NaN where it neither is nor was predicted."""
        return _shares(2 * self.confusion.diagonal(), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    def roc_curve(self) -> tuple[Rates, Rates]:
        """False and true positives of the second of two classes, as `roc_curve` gives them."""
        return roc_curve(self.probabilities[:, 1], self.labels == 1)

    def merged(self, classes: Sequence[int]) -> Evaluation:
        """The same where some classes count as one: ``classes`` gives each class's number among the new ones.

        The probabilities of classes that become one are added.
        """
        numbers = np.asarray(classes)
        probabilities = self.probabilities @ np.eye(numbers.max() + 1, dtype=self.probabilities.dtype)[numbers]
        labels = numbers[self.labels]
        likely = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
        return Evaluation(float(-np.log(likely).mean()) if len(labels) else self.loss, probabilities, labels)

    def summary(self) -> dict[str, float]:
        """The figures for metrics.jsonl; the area under the curve where there are two classes."""
        figures = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_f1": float(np.nanmean(self.f1())) if len(self.labels) else float("nan"),
            "calibration_error": calibration_error(self.probabilities, self.labels),
        }
        if self.probabilities.shape[1] == 2:
            figures["roc_auc"] = roc_auc(self.probabilities[:, 1], self.labels == 1)
        elif self.probabilities.shape[1] > 5:
            figures["top5_accuracy"] = accuracy(self.probabilities, self.labels, top=5)
        return figures

    def report(self, classes: Sequence[str]) -> str:
        """A table of the classes, the confusion matrix and the figures of `summary`, for people."""
        width = max(map(len, [*classes, "class"]))
        lines = [f"{'class':<{width}}  images  recall  precision     f1"]
        counts = self.confusion.sum(axis=1)
        columns = zip(classes, counts, self.recall(), self.precision(), self.f1(), strict=True)
        for name, count, recall, precision, f1 in columns:
            lines.append(f"{name:<{width}}  {count:>6}  {recall:>6.3f}  {precision:>9.3f}  {f1:>5.3f}")
        cell = max(len(str(self.confusion.max(initial=0))), len(str(len(classes) - 1)), 2) + 1
        lines += ["", "confusion matrix (row: true class, column: predicted, numbered as above from 0)"]
        lines.append(" " * width + "".join(f"{i:>{cell}}" for i in range(len(classes))))
        for name, row in zip(classes, self.confusion, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{n:>{cell}}" for n in row))
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.summary().items())
        return "\n".join([*lines, "", f"{figures}, {len(self.labels)} images"])


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Rates:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def edit_distance(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence of the other.

    Levenshtein, 1966; computed row by row as by Wagner and Fischer, "The String-to-String Correction Problem", 1974.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def equal_strings(first: Labels, second: Labels) -> NDArray[np.bool_]:
    """Whether the strings (N, S) and (N, T), filled up with -1, are the same: (N,).

    >>> equal_strings(np.array([[4, 2, -1], [4, 2, 7]]), np.array([[4, 2], [4, 2]]))
    array([ True, False])
    """
    width = max(first.shape[1], second.shape[1])
    first, second = (
        np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=PADDING) for part in (first, second)
    )
    equal: NDArray[np.bool_] = (first == second).all(axis=1)
    return equal


def spelled(string: Labels, classes: Sequence[str]) -> str:
    """A string of labels (S,), filled up with -1, in names of classes, with blanks between names of several letters.

    >>> spelled(np.array([1, 0, -1]), "ab"), spelled(np.array([1, 0]), ["one", "two"])
    ('ba', 'two one')
    """
    names = [classes[label] for label in string if label != PADDING]
    return ("" if all(len(name) == 1 for name in classes) else " ").join(names)


MISREAD = 20  # strings that a report shows


@dataclass(frozen=True)
class TranscriptEvaluation:
    """The result of reading: mean loss, and for each image what was read (N, T) and what is written (N, S).

    Both are filled up with -1 behind the end of each string.

    >>> read, written = np.array([[4, 2, -1], [7, -1, -1]]), np.array([[4, 2], [7, 1]])
    >>> evaluation = TranscriptEvaluation(0.1, read, written)
    >>> evaluation.accuracy, evaluation.character_error_rate
    (0.5, 0.25)
    """

    loss: float
    transcripts: Labels
    labels: Labels

    @property
    def accuracy(self) -> float:
        """The share of strings that were read without any error; NaN for none."""
        return float(equal_strings(self.transcripts, self.labels).mean()) if len(self.labels) else float("nan")

    @property
    def character_error_rate(self) -> float:
        """The edit distances of all strings, divided by their lengths together; NaN for no characters."""
        pairs = zip(self.transcripts.tolist(), self.labels.tolist(), strict=True)
        errors = sum(edit_distance(_without_padding(read), _without_padding(written)) for read, written in pairs)
        length = int((self.labels != PADDING).sum())
        return errors / length if length else float("nan")

    def summary(self) -> dict[str, float]:
        """The figures for metrics.jsonl."""
        return {"loss": self.loss, "accuracy": self.accuracy, "character_error_rate": self.character_error_rate}

    def report(self, classes: Sequence[str]) -> str:
        """The first strings that were misread, and the figures of `summary`, for people."""
        wrong = np.flatnonzero(~equal_strings(self.transcripts, self.labels))
        lines = [f"misread: {len(wrong)} of {len(self.labels)} strings"]
        for index in wrong[:MISREAD]:
            written, read = (spelled(strings[index], classes) for strings in (self.labels, self.transcripts))
            lines.append(f"item {index}: {written} was read as {read or 'nothing'}")
        if len(wrong) > MISREAD:
            lines.append(f"and {len(wrong) - MISREAD} more")
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.summary().items())
        return "\n".join([*lines, "", f"{figures}, {len(self.labels)} images"])


def _without_padding(string: list[int]) -> list[int]:
    return [label for label in string if label != PADDING]
