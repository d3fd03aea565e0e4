"""What moves more numbers than it computes: normalisation, pooling, losses, element by element."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.cases.case import CHANNELS_FIRST, CHANNELS_LAST, Input, Variant
from benchmarks.cases.operation import Operation


def batch_norm(n: int, size: int, c: int) -> Operation:
    """Over square images, in training."""

    def theirs(torch: Any) -> Any:
        return lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, training=True)

    return Operation(
        "norm",
        f"batch_norm, {n}x{size}x{size}x{c}",
        {"x": Input((n, size, size, c)), "weight": Input((c,)), "bias": Input((c,))},
        n * size * size * c,
        {
            "ours": (Variant(lambda ie: lambda x, w, b: ie.functional.batch_norm(x, None, None, w, b, training=True)),),
            "torch": (Variant(theirs, CHANNELS_LAST), Variant(theirs, CHANNELS_FIRST)),
        },
        8.0 * n * size * size * c,
    )


def layer_norm(rows: int, c: int) -> Operation:
    """Each row by itself."""
    return Operation(
        "norm",
        f"layer_norm, {rows}x{c}",
        {"x": Input((rows, c)), "weight": Input((c,)), "bias": Input((c,))},
        rows * c,
        {
            "ours": (Variant(lambda ie: ie.functional.layer_norm),),
            "torch": (Variant(lambda torch: lambda x, w, b: torch.layer_norm(x, (c,), w, b)),),
            "onnxruntime": (Variant(lambda graphs: graphs.operator("LayerNormalization")),),
        },
        8.0 * rows * c,
    )


def max_pool2d(n: int, size: int, c: int, kernel: int = 2, stride: int = 2, padding: int = 0) -> Operation:
    """The largest of each window of kernel x kernel."""
    settings = {"kernel_size": kernel, "stride": stride, "padding": padding}
    node = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
    out = (size + 2 * padding - kernel) // stride + 1

    def theirs(torch: Any) -> Any:
        return functools.partial(torch.nn.functional.max_pool2d, **settings)

    return Operation(
        "pool2d",
        f"max_pool2d {kernel}x{kernel}/{stride}, {n}x{size}x{size}x{c}",
        {"x": Input((n, size, size, c))},
        n * out * out * c,
        {
            "ours": (Variant(lambda ie: functools.partial(ie.functional.max_pool2d, **settings)),),
            "torch": (Variant(theirs, CHANNELS_LAST), Variant(theirs, CHANNELS_FIRST)),
            "onnxruntime": (Variant(lambda graphs: graphs.operator("MaxPool", **node), CHANNELS_FIRST),),
        },
        1.0 * kernel * kernel * n * out * out * c,
        backward_flop=1.0 / kernel**2,
    )


def cross_entropy(rows: int, classes: int) -> Operation:
    """The mean over rows, each against one class."""
    return Operation(
        "loss",
        f"cross_entropy, {rows}x{classes}",
        {"logits": Input((rows, classes)), "targets": Input((rows,), classes=classes)},
        1,
        {
            "ours": (Variant(lambda ie: ie.functional.cross_entropy),),
            "torch": (Variant(lambda torch: torch.nn.functional.cross_entropy),),
        },
        5.0 * rows * classes,
        backward_flop=0.5,
    )


def elementwise(name: str, *shape: int, inputs: int = 1) -> Operation:
    """A function of one array, or of several of one shape."""
    elements = 1
    for side in shape:
        elements *= side
    return Operation(
        "elementwise",
        f"{name}, {'x'.join(map(str, shape))}",
        {f"x{i}": Input(shape) for i in range(inputs)},
        elements,
        {
            "ours": (Variant(lambda ie: getattr(ie.functional, name)),),
            "torch": (Variant(lambda torch: getattr(torch, name, None) or getattr(torch.nn.functional, name)),),
        },
        1.0 * elements,
    )


def softmax(rows: int, columns: int) -> Operation:
    """Of each row."""
    return Operation(
        "elementwise",
        f"softmax, {rows}x{columns}",
        {"x": Input((rows, columns))},
        rows * columns,
        {
            "ours": (Variant(lambda ie: lambda x: ie.functional.softmax(x, -1)),),
            "torch": (Variant(lambda torch: lambda x: torch.softmax(x, -1)),),
            "onnxruntime": (Variant(lambda graphs: graphs.operator("Softmax", axis=-1)),),
        },
        4.0 * rows * columns,
    )


NORM = (batch_norm(32, 28, 64), batch_norm(32, 56, 64), layer_norm(4160, 384), layer_norm(512, 128))
POOL2D = (max_pool2d(32, 56, 64), max_pool2d(16, 112, 64, 3, 2, 1))
LOSS = (cross_entropy(4096, 1000), cross_entropy(64, 10))
ELEMENTWISE = (
    elementwise("relu", 32, 28, 28, 64),
    elementwise("add", 32, 28, 28, 64, inputs=2),
    elementwise("gelu", 32, 197, 768),
    elementwise("sigmoid", 32, 197, 768),
    softmax(4096, 1000),
)
