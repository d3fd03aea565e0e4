"""Whether an exported file computes what the model does: onnxruntime runs it beside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.autograd import no_grad
from imgrec_engine.errors import ExportError
from imgrec_engine.nn import Module
from imgrec_engine.onnx.model import first_line
from imgrec_engine.onnx.trace import evaluating, leaves
from imgrec_engine.tensor import tensor
from imgrec_engine.train.tasks import Task

TOLERANCE = 1e-4

Compute = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Of how many ``samples``; the greatest ``difference`` of two elements; for how many samples the ``answer`` is the
    same: "top-1", the place of the first output's largest element, or the "string" that a model reads; the ``largest``
    absolute element of the model's outputs; the version of onnxruntime.
    """

    samples: int
    difference: float
    same_top: int
    largest: float
    runtime: str
    answer: str = "top-1"

    def __str__(self) -> str:
        return (
            f"onnxruntime {self.runtime} on {self.samples} samples: {self.answer} equal on {self.same_top}, outputs "
            f"differ by {self.difference:.1e} at most"
        )


def compare(compute: Compute, serialized: bytes, batches: Iterable[NDArray[Any]], task: Task) -> Parity | None:
    """Runs the file and a function that gives what it should on the same batches; None where there is no onnxruntime.

    ``task`` says what the first output's answers are.
    ExportError where onnxruntime cannot run the file, or gives other shapes.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; which the exceptions tell too
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    samples = same_top = 0
    difference = largest = 0.0
    try:
        session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        for batch in batches:
            expected, found = compute(batch), session.run(None, {given.name: batch})
            difference = max(difference, *map(_distance, expected, found))
            largest = max(largest, *(float(np.abs(output).max(initial=0)) for output in expected))
            samples += len(batch)
            same_top += _same_top(task, expected[0], found[0], len(batch))
    except ExportError:
        raise
    except Exception as error:  # onnxruntime's own have no common type
        raise ExportError(f"onnx: onnxruntime cannot run the graph: {first_line(error)}") from error
    return Parity(samples, difference, same_top, largest, onnxruntime.__version__, task.answer)


def outputs_of(model: Module, batch: NDArray[Any]) -> list[NDArray[Any]]:
    """What a model gives in evaluation mode."""
    with evaluating(model), no_grad():
        return [output.numpy() for output in leaves(model(tensor(batch))) if output is not None]


def _distance(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference; infinite where only one of two elements is finite."""
    if expected.shape != found.shape:
        raise ExportError(f"onnx: onnxruntime gives the shape {found.shape} for {expected.shape}")
    equal = (expected == found) | ((expected != expected) & (found != found))
    apart = np.abs(np.where(equal, 0, expected.astype(np.float64) - np.where(equal, 0, found)))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _same_top(task: Task, expected: NDArray[Any], found: NDArray[Any], batch: int) -> int:
    """Of how many samples the answer is the same; of all where the first axis is not the batch's."""
    if expected.shape[:1] != (batch,):
        return batch
    same = task.answers(expected) == task.answers(found)
    return int(same.reshape(batch, -1).all(axis=1).sum())
