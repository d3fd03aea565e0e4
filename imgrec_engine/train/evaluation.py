"""Measuring a model on labelled batches."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from imgrec_engine.autograd import no_grad
from imgrec_engine.functional import cross_entropy
from imgrec_engine.metrics import Evaluation, confusion_matrix
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor


def device_of(model: Module) -> str:
    """The device of the model's parameters; "cpu" where it has none."""
    return next((parameter.device for parameter in model.parameters()), "cpu")


def evaluate(model: Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Mean loss, accuracy and confusion matrix over all batches, with the model in evaluation mode."""
    model.eval()
    device = device_of(model)
    total, count, confusion = 0.0, 0, np.zeros((0, 0), dtype=np.int64)
    with no_grad():
        for images, labels in ((images.to(device), labels.to(device)) for images, labels in batches):
            logits = model(images)
            total += float(cross_entropy(logits, labels)) * len(labels)
            count += len(labels)
            counts = confusion_matrix(logits.numpy().argmax(axis=-1), labels.numpy(), logits.shape[-1])
            confusion = counts if not confusion.size else confusion + counts
    return Evaluation(total / max(count, 1), int(confusion.trace()) / max(count, 1), confusion)
