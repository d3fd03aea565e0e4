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

TOLERANCE = 1e-4

Compute = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Of how many ``samples``; the greatest ``difference`` of two elements; for how many samples the largest of the first
    output is at the same place; the ``largest`` absolute element of the model's outputs; the version of onnxruntime.
    """

    samples: int
    difference: float
    same_top: int
    largest: float
    runtime: str

    def __str__(self) -> str:
        return (
            f"onnxruntime {self.runtime} on {self.samples} samples: top-1 equal on {self.same_top}, outputs differ by "
            f"{self.difference:.1e} at most"
        )


def compare(compute: Compute, serialized: bytes, batches: Iterable[NDArray[Any]]) -> Parity | None:
    """Runs the file and a function that gives what it should on the same batches; None where there is no onnxruntime.

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
            same_top += _same_top(expected[0], found[0], len(batch))
    except ExportError:
        raise
    except Exception as error:  # onnxruntime's own have no common type
        raise ExportError(f"onnx: onnxruntime cannot run the graph: {first_line(error)}") from error
    return Parity(samples, difference, same_top, largest, onnxruntime.__version__)


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


def _same_top(expected: NDArray[Any], found: NDArray[Any], batch: int) -> int:
    """Of how many samples the largest element is at the same place; of all where the first axis is not the batch's."""
    if expected.shape[:1] != (batch,):
        return batch
    tops = (outputs.reshape(batch, -1).argmax(1) for outputs in (expected, found))
    return int(np.equal(*tops).sum())
