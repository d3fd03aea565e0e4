"""ONNX Runtime: graphs of one operator, whose first input is given at each call and whose weights are constants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.frameworks.framework import HostClock

OPSET = 23  # the first with Attention
Prepare = Callable[..., tuple[Any, ...]]


class Graph:
    """A session, made when the inputs are first known."""

    def __init__(self, threads: int, node: Callable[[list[str]], list[Any]], prepare: Prepare, given: int) -> None:
        self._threads = threads
        self._node = node
        self._prepare = prepare
        self._given = given  # so many inputs are given at each call
        self._call: Callable[[], Any] | None = None

    def __call__(self, *inputs: NDArray[Any]) -> Any:
        """The output, in ONNX Runtime's memory."""
        if self._call is None:
            self._call = self._bind(*self._prepare(*inputs))
        return self._call()

    def _bind(self, *inputs: NDArray[Any]) -> Callable[[], Any]:
        names = [f"x{i}" for i in range(len(inputs))]
        pairs = list(zip(names, inputs, strict=True))
        graph = helper.make_graph(
            self._node(names),
            "case",
            [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v.shape) for k, v in pairs[: self._given]],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in pairs[self._given :]],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        feed = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in pairs[: self._given]}
        return lambda: session.run_with_ort_values(["y"], feed)[0]


class OnnxRuntime:
    """On the processor, in float32; forward only. It is its own module: cases ask it for operators."""

    name = "onnxruntime"

    def __init__(self, device: str, dtype: str) -> None:
        self.module: Any = self
        self.version = f"ONNX Runtime {onnxruntime.__version__}"
        self.clock = HostClock()
        self._threads = 1

    def set_threads(self, count: int) -> None:
        """For the sessions that are made from now on."""
        self._threads = count

    def operator(
        self, name: str, prepare: Prepare = lambda *inputs: inputs, squeezed: int | None = None, **settings: Any
    ) -> Graph:
        """A function that runs this operator; of its inputs all but the first are constants, except in Attention.

        ``prepare`` turns the case's inputs into the operator's; ``squeezed`` is an axis of length 1 that the output has
        too many.
        """
        output = ["y"] if squeezed is None else ["y_long"]

        def nodes(inputs: list[str]) -> list[Any]:
            nodes = [helper.make_node(name, inputs, output, **settings)]
            if squeezed is not None:
                axes = numpy_helper.from_array(np.array([squeezed]), "axes")
                nodes.append(helper.make_node("Constant", [], ["axes"], value=axes))
                nodes.append(helper.make_node("Squeeze", ["y_long", "axes"], ["y"]))
            return nodes

        return Graph(self._threads, nodes, prepare, given=3 if name == "Attention" else 1)

    def tensor(self, array: NDArray[Any], requires_grad: bool = False) -> NDArray[Any]:
        """The array without gaps."""
        return np.ascontiguousarray(array)

    def numpy(self, tensor: Any) -> NDArray[Any]:
        """The values."""
        return np.asarray(tensor.numpy())

    def no_grad(self) -> contextlib.AbstractContextManager[Any]:
        """There are no gradients."""
        return contextlib.nullcontext()
