"""Measuring a model on labelled batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from imgrec_engine.autograd import no_grad
from imgrec_engine.functional import softmax
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor
from imgrec_engine.train.prefetch import prefetch
from imgrec_engine.train.tasks import task_of


def device_of(model: Module) -> str:
    """The device of the model's parameters; "cpu" where it has none."""
    return next((parameter.device for parameter in model.parameters()), "cpu")


def evaluate(model: Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Any:
    """The `Evaluation` of a model on all batches, in evaluation mode; of one that reads, the `TranscriptEvaluation`."""
    model.eval()
    task = task_of(model)
    total, probabilities, seen = 0.0, [np.zeros((0, 0))], [np.zeros(0, dtype=np.int64)]
    with no_grad():
        for images, labels in prefetch(batches, device_of(model)):
            logits = model(images)
            total += float(task.loss(logits, labels)) * len(labels)
            probabilities.append(softmax(logits, axis=-1).numpy())
            seen.append(labels.numpy())
    given = np.concatenate(seen[1:] or seen)
    return task.evaluation(total / max(len(given), 1), np.concatenate(probabilities[1:] or probabilities), given)
