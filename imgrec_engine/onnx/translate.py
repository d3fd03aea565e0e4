"""From a model to a graph: each call that depends on the input is translated by the function of its name."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from imgrec_engine.dtypes import float32, is_floating
from imgrec_engine.errors import DeviceError, ExportError
from imgrec_engine.nn import Module
from imgrec_engine.onnx import elementwise, layers, sequences, shapes
from imgrec_engine.onnx.graph import LAST, Graph, Untranslatable
from imgrec_engine.onnx.table import TRANSLATIONS
from imgrec_engine.onnx.trace import Batch, Step, described, leaves, trace

FAMILIES = (elementwise, layers, sequences, shapes)  # importing them fills the table
SHAPED_BY_RESULT = {"reshape", "expand"}  # their arguments may hold the batch's length


def translate(model: Module, example: NDArray[Any], input_name: str = "input", output_name: str = "output") -> Graph:
    """The graph of what a model computes in evaluation mode for batches (N, ...) like the example.

    Several outputs are numbered: ``output_name`` 0, 1, ...

    ExportError where the model cannot be said as a graph, DeviceError where it is not on the CPU.

    >>> import numpy as np, imgrec_engine as ie
    >>> model = ie.models.create("cnn", num_classes=4, in_channels=1, image_size=8)
    >>> graph = translate(model, np.zeros((1, 8, 8, 1), np.float32), "images", "logits")
    >>> [node.kind for node in graph.nodes][:5]
    ['Transpose', 'Conv', 'BatchNormalization', 'Relu', 'MaxPool']
    >>> [node.kind for node in graph.nodes][-4:]
    ['Transpose', 'Reshape', 'Gemm', 'Identity']
    """
    _check(model)
    found = trace(model, example, TRANSLATIONS)
    graph = Graph(found.input, input_name)
    for step in found.steps:
        _translate(graph, step)
    graph.module = ""
    for number, output in enumerate(found.outputs):
        graph.end(output, output_name if len(found.outputs) == 1 else f"{output_name}{number}")
    graph.finish()
    return graph


def _check(model: Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device != "cpu":
            raise DeviceError(f"onnx: {name} is on {tensor.device}; export from the CPU: model.to(device='cpu')")
        if is_floating(tensor.dtype) and tensor.dtype != float32:
            raise ExportError(f"onnx: {name} is {tensor.dtype.name}; exported models are float32: model.to('float32')")


def _translate(graph: Graph, step: Step) -> None:
    """Adds the nodes of one call and notes where its results are."""
    graph.module = step.module
    results: Any = step.results if _gives_several(step) else step.results[0]
    try:
        if step.name not in SHAPED_BY_RESULT and any(isinstance(leaf, Batch) for leaf in leaves(step.arguments)):
            raise Untranslatable("an argument depends on the batch's length")
        placed = TRANSLATIONS[step.name](graph, results, **step.arguments)
    except Untranslatable as reason:
        raise ExportError(f"onnx: {step.name} in {described(step.module)}: {reason}") from None
    if _gives_several(step):
        for value, name in zip(step.results, placed, strict=True):
            graph.place(value, name)
    else:
        name, layout = (placed, LAST) if isinstance(placed, str) else placed
        graph.place(step.results[0], name, layout)


def _gives_several(step: Step) -> bool:
    return step.name in ("split", "rnn", "lstm", "gru")
