"""Translations of convolution, pooling, normalisation and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.dtypes import promote
from imgrec_engine.onnx.elementwise import activated
from imgrec_engine.onnx.graph import FIRST, LAST, Graph, Untranslatable, fixed_length
from imgrec_engine.onnx.table import translates
from imgrec_engine.onnx.trace import Operand, Value


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(number) for number in value]


@translates("conv2d")
def _conv2d(
    graph: Graph,
    result: Value,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    activation: str | None,
    algorithm: str | None,
) -> tuple[str, str]:
    filters = graph.fixed("weight", weight)
    kernel, dilations = list(filters.shape[1:3]), _pair(dilation)
    if padding == "same":  # the odd one after, as the op has it
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = [n // 2 for n in total] + [n - n // 2 for n in total]
    else:
        pads = _pair(padding) * 2
    inputs = [graph.name(x, FIRST), graph.constant(filters.transpose(0, 3, 1, 2), name="weight")]
    if bias is not None:
        inputs.append(graph.constant(graph.fixed("bias", bias), name="bias"))
    settings: dict[str, Any] = {"strides": _pair(stride), "dilations": dilations, "group": groups, "pads": pads}
    name = graph.add("Conv", *inputs, kernel_shape=kernel, **settings)
    return activated(graph, name, activation), FIRST


def _pool(name: str, kind: str, **attributes: Any) -> None:
    def translate(
        graph: Graph, result: Value, x: Operand, kernel_size: Any, stride: Any, padding: Any
    ) -> tuple[str, str]:
        kernel = _pair(kernel_size)
        strides = kernel if stride is None else _pair(stride)
        window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": _pair(padding) * 2}
        return graph.add(kind, graph.name(x, FIRST), **window, **attributes), FIRST

    translates(name)(translate)


_pool("max_pool2d", "MaxPool")
_pool("avg_pool2d", "AveragePool", count_include_pad=1)


@translates("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(graph: Graph, result: Value, x: Operand, output_size: Any) -> tuple[str, str]:
    sizes = [fixed_length(length, "a side of the image") for length in x.shape[1:3]]
    wanted = _pair(output_size)
    name = graph.name(x, FIRST)
    if wanted == [1, 1]:
        return graph.add("GlobalAveragePool", name), FIRST
    if all(size % count == 0 for size, count in zip(sizes, wanted, strict=True)):
        kernel = [size // count for size, count in zip(sizes, wanted, strict=True)]
        return graph.add("AveragePool", name, kernel_shape=kernel, strides=kernel), FIRST
    rows, columns = (_means(size, count, x.dtype) for size, count in zip(sizes, wanted, strict=True))
    above = graph.add("MatMul", graph.constant(rows, name="rows"), name)
    return graph.add("MatMul", above, graph.constant(columns.T, name="columns")), FIRST


def _means(size: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The matrix (count, size) that takes the means of windows that share an axis evenly."""
    matrix = np.zeros((count, size), dtype)
    for row in range(count):
        begin, end = row * size // count, -(-(row + 1) * size // count)
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix


@translates("batch_norm")
def _batch_norm(
    graph: Graph,
    result: Value,
    x: Operand,
    running_mean: Operand | None,
    running_var: Operand | None,
    weight: Operand | None,
    bias: Operand | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
) -> tuple[str, str]:
    if training:
        raise Untranslatable("it is in training mode, where results depend on the whole batch")
    mean, var = graph.fixed("running_mean", running_mean), graph.fixed("running_var", running_var)
    scale = np.ones_like(mean) if weight is None else graph.fixed("weight", weight)
    shift = np.zeros_like(mean) if bias is None else graph.fixed("bias", bias)
    if len(x.shape) == 4:
        named = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": var}
        constants = (graph.constant(array, x.dtype, name) for name, array in named.items())
        name = graph.add("BatchNormalization", graph.name(x, FIRST), *constants, epsilon=eps)
        return activated(graph, name, activation), FIRST
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
    scaled = graph.add("Mul", graph.name(x), graph.constant(factor, x.dtype, "scale"))
    name = graph.add("Add", scaled, graph.constant(shift - mean * factor, x.dtype, "shift"))
    return activated(graph, name, activation), LAST


@translates("layer_norm")
def _layer_norm(
    graph: Graph,
    result: Value,
    x: Operand,
    weight: Operand | None,
    bias: Operand | None,
    eps: float,
    activation: str | None,
) -> str:
    columns = fixed_length(x.shape[-1], "the last axis")
    scale = np.ones(columns) if weight is None else graph.fixed("weight", weight)
    inputs = [graph.name(x), graph.constant(scale, x.dtype, "weight")]
    if bias is not None:
        inputs.append(graph.constant(graph.fixed("bias", bias), x.dtype, "bias"))
    name = graph.add("LayerNormalization", *inputs, axis=-1, epsilon=eps)
    return activated(graph, name, activation)


@translates("linear")
def _linear(
    graph: Graph,
    result: Value,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    activation: str | None,
    residual: Operand | None,
) -> str:
    matrix = graph.fixed("weight", weight)
    added = None if bias is None else graph.constant(graph.fixed("bias", bias), name="bias")
    if len(x.shape) == 2:
        name = graph.add("Gemm", graph.name(x), graph.constant(matrix, name="weight"), added or "", transB=1)
    else:
        name = graph.add("MatMul", graph.name(x), graph.constant(matrix.T, name="weight"))
        name = name if added is None else graph.add("Add", name, added)
    name = name if residual is None else graph.add("Add", name, graph.name(residual))
    return activated(graph, name, activation)


@translates("matmul")
def _matmul(graph: Graph, result: Value, a: Operand, b: Operand) -> str:
    dtype = promote(a.dtype, b.dtype)
    names = (graph.name(graph.cast(operand, dtype)) for operand in (a, b))
    return str(graph.add("MatMul", *names))
