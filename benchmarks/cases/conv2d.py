"""Convolutions."""

from __future__ import annotations

import functools
import math
from typing import Any

from benchmarks.cases.case import CHANNELS_FIRST, CHANNELS_LAST, Input, Variant
from benchmarks.cases.operation import Operation


def conv2d(
    n: int,
    size: int | tuple[int, int],
    c: int,
    k: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    family: str = "conv2d",
) -> Operation:
    """Images (n, *size, c) and k filters of kernel x kernel, padded so that stride 1 keeps the size."""
    height, width = size if isinstance(size, tuple) else (size, size)
    padding = dilation * (kernel // 2)
    out = math.prod((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in (height, width))
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    node = {
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "dilations": [dilation] * 2,
        "group": groups,
    }
    name = f"{n}x{height}x{width}x{c} -> {k}, {kernel}x{kernel}"
    name += f"/{stride}" if stride > 1 else ""
    name += f", dilation {dilation}" if dilation > 1 else ""
    name += f", {groups} groups" if groups > 1 else ""

    def theirs(torch: Any) -> Any:
        return functools.partial(torch.conv2d, **settings)

    return Operation(
        family,
        name,
        {
            "x": Input((n, height, width, c)),
            "weight": Input((k, kernel, kernel, c // groups), scale=(kernel * kernel * c // groups) ** -0.5),
            "bias": Input((k,)),
        },
        n * out * k,
        {
            "ours": (Variant(lambda ie: functools.partial(ie.functional.conv2d, **settings)),),
            "torch": (Variant(theirs, CHANNELS_LAST), Variant(theirs, CHANNELS_FIRST)),
            "onnxruntime": (Variant(lambda graphs: graphs.operator("Conv", **node), CHANNELS_FIRST),),
        },
        2.0 * n * out * k * kernel * kernel * c / groups,
    )


CONV2D = (
    conv2d(64, 28, 1, 32, 3),
    conv2d(8, 56, 64, 64, 3),
    conv2d(8, 28, 128, 128, 3),
    conv2d(8, 14, 256, 256, 3),
    conv2d(8, 7, 512, 512, 3),
    conv2d(32, 32, 64, 64, 3),
    conv2d(4, 224, 3, 64, 7, 2),
    conv2d(16, 28, 128, 256, 1),
    conv2d(8, 56, 64, 128, 3, 2),
    conv2d(64, 14, 32, 64, 5),
)

_more = functools.partial(conv2d, family="conv2d-more")

CONV2D_MORE = (
    _more(1, 56, 64, 64, 3),
    _more(1, 7, 512, 512, 3),
    _more(1, 224, 3, 32, 3, 2),
    _more(1, 28, 1, 16, 3),
    _more(1, 14, 32, 64, 3),
    _more(4, 33, 48, 80, 3),
    _more(2, 17, 7, 13, 3),
    _more(4, (31, 45), 24, 40, 3),
    _more(8, 28, 1, 1, 3),
    _more(4, 28, 1, 512, 3),
    _more(4, 28, 512, 1, 3),
    _more(64, 28, 16, 32, 3),
    _more(32, 14, 32, 64, 3),
    _more(16, 32, 16, 16, 3),
    _more(8, 14, 512, 512, 1),
    _more(8, 56, 64, 256, 1),
    _more(8, 56, 256, 512, 1, 2),
    _more(16, 28, 32, 64, 2, 2),
    _more(16, 28, 32, 64, 5, 2),
    _more(8, 28, 64, 64, 7),
    _more(32, 64, 3, 64, 4, 4),
    _more(8, (31, 29), 32, 32, 3, dilation=2),
    _more(8, 28, 64, 64, 3, dilation=4),
    _more(8, 56, 64, 64, 3, groups=64),
    _more(8, 56, 96, 96, 3, 2, groups=96),
    _more(8, 28, 192, 192, 5, groups=192),
    _more(8, 28, 64, 64, 3, groups=4),
    _more(8, 14, 256, 256, 3, groups=32),
    _more(16, 39, 128, 32, 5, 3, groups=2),
    _more(16, (29, 11), 512, 1, 5, 2, dilation=2),
    _more(4, 47, 100, 5, 7, 3, dilation=2),
    _more(32, (25, 41), 17, 17, 5, groups=17),
    _more(1, (39, 53), 192, 384, 4, 2, groups=192),
)
