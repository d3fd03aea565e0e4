"""The two tasks: to say the class of an image, and to read the string that is written in it.

A model says which one is its own (`ImageModel.task`); all that differs between the two is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.autograd import no_grad
from imgrec_engine.creation import zeros
from imgrec_engine.data import Dataset
from imgrec_engine.data.dataset import PADDING
from imgrec_engine.data.mixing import Mixing
from imgrec_engine.decoding import ctc_greedy_decode
from imgrec_engine.errors import DataError
from imgrec_engine.functional import cross_entropy, ctc_loss, log_softmax
from imgrec_engine.metrics import Evaluation, TranscriptEvaluation, equal_strings, spelled
from imgrec_engine.models import ImageModel
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor, tensor
from imgrec_engine.train.config import RunConfig
from imgrec_engine.train.loss import ClassificationLoss, balancing_weights
from imgrec_engine.train.plots import draw_confusion, draw_roc

Array = NDArray[Any]
Labels = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """The classes of one image from the most to the least likely, with their probabilities; or the string in it."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most likely class, or the string."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """Its probability."""
        return self.scores[0]


class Task(ABC):
    """What a model's outputs mean: how they are learned, counted, judged and told.

    ``answer`` is a word for what a model says of an image.
    """

    answer: ClassVar[str]

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, a tensor ()."""

    @abstractmethod
    def training_loss(self, config: RunConfig, train: Dataset) -> Loss:
        """What a run makes small, of the same arguments as ``loss``."""

    @abstractmethod
    def check(self, config: RunConfig, train: Dataset, model: ImageModel) -> None:
        """DataError where the data or the configuration is not for this task."""

    @abstractmethod
    def answers(self, scores: Array) -> Labels:
        """What outputs, or their softmax, say: classes (N,), or strings (N, T) filled up with `PADDING`."""

    @abstractmethod
    def correct(self, scores: Array, labels: Array) -> int:
        """How many of a training batch's answers are right."""

    @abstractmethod
    def evaluation(self, loss: float, probabilities: Array, labels: Labels) -> Evaluation | TranscriptEvaluation:
        """The figures of a labelled set: the mean ``loss`` and the softmax of all outputs."""

    @abstractmethod
    def predictions(self, probabilities: Array, classes: Sequence[str]) -> list[Prediction]:
        """What the softmax of outputs says of each image, for people."""

    @abstractmethod
    def draw(self, evaluation: Any, classes: Sequence[str], folder: Path) -> None:
        """Pictures of an evaluation."""


class Classification(Task):
    """One class for each image: logits (N, classes) and labels (N,), or in training shares of the classes."""

    answer = "top-1"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy."""
        loss: Tensor = cross_entropy(outputs, labels)
        return loss

    def training_loss(self, config: RunConfig, train: Dataset) -> Loss:
        """With the configuration's label smoothing and class weights."""
        weights = balancing_weights(train).to(config.device) if config.class_weights else None
        return ClassificationLoss(config.label_smoothing, weights)

    def check(self, config: RunConfig, train: Dataset, model: ImageModel) -> None:
        """Labels are classes."""
        if train.labels.ndim != 1:
            raise DataError(
                f"{config.data} has a string for each image, which the model {config.model!r} does not read; crnn does"
            )

    def answers(self, scores: Array) -> Labels:
        """The most likely class of each image.

        >>> Classification().answers(np.array([[0.2, 0.8], [0.6, 0.4]]))
        array([1, 0])
        """
        classes: Labels = scores.reshape(len(scores), -1).argmax(axis=1)
        return classes

    def correct(self, scores: Array, labels: Array) -> int:
        """Where labels are mixed, the one of the greatest share counts."""
        classes = labels if labels.ndim == 1 else labels.argmax(axis=-1)
        return int((scores.argmax(axis=-1) == classes).sum())

    def evaluation(self, loss: float, probabilities: Array, labels: Labels) -> Evaluation:
        """Accuracy, confusion and the like."""
        return Evaluation(loss, probabilities, labels)

    def predictions(self, probabilities: Array, classes: Sequence[str]) -> list[Prediction]:
        """All classes, by probability."""
        orders = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            Prediction(tuple(classes[k] for k in order), tuple(float(row[k]) for k in order))
            for row, order in zip(probabilities, orders, strict=True)
        ]

    def draw(self, evaluation: Evaluation, classes: Sequence[str], folder: Path) -> None:
        """The confusion matrix and, of two classes, the ROC curve."""
        draw_confusion(evaluation.confusion, classes, folder / "confusion.png")
        if len(classes) == 2:
            draw_roc(evaluation, classes[1], folder / "roc.png")


class Transcription(Task):
    """The string in each image: logits (N, T, classes + 1), the last for CTC's blank, and labels (N, S).

    Labels of shorter strings are filled up with `PADDING`. Answers are those of the likeliest path
    (`ctc_greedy_decode`), and the probability of an answer is that of all paths that spell it.
    """

    answer = "string"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """CTC's loss, for each string divided by its length."""
        lengths = (labels != PADDING).sum(axis=1)
        loss: Tensor = ctc_loss(log_softmax(outputs), labels, target_lengths=lengths, blank=outputs.shape[-1] - 1)
        return loss

    def training_loss(self, config: RunConfig, train: Dataset) -> Loss:
        """The loss itself."""
        return self.loss

    def check(self, config: RunConfig, train: Dataset, model: ImageModel) -> None:
        """Labels are strings that fit into the image, and no setting asks for what only classes have."""
        if train.labels.ndim != 2:
            raise DataError(f"{config.data} has a class for each image, but the model {config.model!r} reads strings")
        mixings = {name: name in config.augment for name in Mixing.__dataclass_fields__}
        settings = {name: getattr(config, name) for name in ("label_smoothing", "class_weights", "merge")} | mixings
        for name, value in settings.items():
            if value:
                raise DataError(f"{name} is for one class an image; the model {config.model!r} reads strings")
        with no_grad():
            image = zeros((1, *model.image_size, model.in_channels), device=config.device)
            steps = model.eval()(image).shape[1]
        repeated = (train.labels[:, 1:] == train.labels[:, :-1]) & (train.labels[:, 1:] != PADDING)
        needed = int(((train.labels != PADDING).sum(axis=1) + repeated.sum(axis=1)).max())
        if needed > steps:
            raise DataError(
                f"{config.data}: a string needs {needed} steps, one more for each repetition, but {config.model!r} has "
                f"{steps} for images {model.image_size[1]} pixels wide; a larger image_size would do"
            )

    def answers(self, scores: Array) -> Labels:
        """The strings of the likeliest paths (N, T), filled up with `PADDING`.

        >>> Transcription().answers(np.eye(3)[[[1, 1, 2, 0]]])  # 2 is blank
        array([[ 1,  0, -1, -1]])
        """
        strings = ctc_greedy_decode(scores, blank=scores.shape[-1] - 1)
        answers = np.full(scores.shape[:2], PADDING, np.int64)
        for row, string in zip(answers, strings, strict=True):
            row[: len(string)] = string
        return answers

    def correct(self, scores: Array, labels: Array) -> int:
        """Whole strings count."""
        return int(equal_strings(self.answers(scores), labels).sum())

    def evaluation(self, loss: float, probabilities: Array, labels: Labels) -> TranscriptEvaluation:
        """Accuracy of whole strings, and the character error rate."""
        if not len(labels):  # there is nothing whose shape could be known
            return TranscriptEvaluation(loss, *np.zeros((2, 0, 0), np.int64))
        return TranscriptEvaluation(loss, self.answers(probabilities), labels)

    def predictions(self, probabilities: Array, classes: Sequence[str]) -> list[Prediction]:
        """The string, and its probability."""
        answers = self.answers(probabilities)
        likely = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        losses = ctc_loss(
            tensor(likely),
            tensor(answers),
            target_lengths=tensor((answers != PADDING).sum(axis=1)),
            blank=len(classes),
            reduction="none",
        )
        scores = np.exp(-losses.numpy())
        return [
            Prediction((spelled(row, classes),), (float(score),)) for row, score in zip(answers, scores, strict=True)
        ]

    def draw(self, evaluation: TranscriptEvaluation, classes: Sequence[str], folder: Path) -> None:
        """There are none."""


_TASKS: dict[str, Task] = {"classification": Classification(), "transcription": Transcription()}


def task_of(model: Module) -> Task:
    """The task that a model names as its own; classification for modules that name none."""
    return _TASKS[getattr(model, "task", "classification")]
