"""From a graph to the bytes of an ONNX file: the only place that needs the package `onnx`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgrec_engine.errors import ExportError
from imgrec_engine.onnx.graph import Graph, Node
from imgrec_engine.onnx.trace import Batch, Operand

OPSET = 18  # the first in which all reductions take their axes alike
IR_VERSION = 8  # the file format's that came with opset 18: what is older than 2023 reads neither


def package() -> Any:
    """The package `onnx`; ExportError that says how to install it."""
    try:
        import onnx
    except ImportError:
        raise ExportError("onnx is not installed, which writes the file: pip install imgrec_engine[onnx]") from None
    return onnx


def serialize(graph: Graph, metadata: Mapping[str, Any], version: str) -> bytes:
    """The ONNX file of a graph, checked; metadata values that are not text become JSON.

    ExportError where `onnx` is not installed, or finds a fault.
    """
    onnx = package()
    helper = onnx.helper
    inputs = [_described(onnx, graph.input_name, graph.input)]
    outputs = [_described(onnx, name, operand) for name, operand in graph.outputs.items()]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in graph.initializers.items()]
    proto = helper.make_graph(
        [_node(onnx, node) for node in graph.nodes], "imgrec_engine", inputs, outputs, initializers
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="imgrec_engine",
        producer_version=version,
    )
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, texts)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx: the checker refuses the graph: {first_line(error)}") from error
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def first_line(error: Exception) -> str:
    """What an error of a library says, which may go on for pages."""
    return str(error).partition("\n")[0]


def _described(onnx: Any, name: str, operand: Operand) -> Any:
    """The name, dtype and shape of an input or output."""
    shape = [str(length) if isinstance(length, Batch) else length for length in operand.shape]
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(operand.dtype), shape)


def _node(onnx: Any, node: Node) -> Any:
    attributes = {
        name: onnx.helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
        for name, value in node.attributes.items()
    }
    return onnx.helper.make_node(node.kind, node.inputs, node.outputs, node.name, **attributes)
