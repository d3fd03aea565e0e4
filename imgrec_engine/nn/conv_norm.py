"""A convolution followed by batch normalisation, as one convolution where nothing is learned."""

from __future__ import annotations

import numpy as np

from imgrec_engine import functional as F
from imgrec_engine import packing
from imgrec_engine.autograd import is_recording
from imgrec_engine.dtypes import float32, float64
from imgrec_engine.mixed_precision import region
from imgrec_engine.nn.conv2d import Conv2d
from imgrec_engine.nn.norm import BatchNorm2d
from imgrec_engine.tensor import Tensor


def conv_norm(x: Tensor, conv: Conv2d, norm: BatchNorm2d, activation: str | None = None) -> Tensor:
    """``norm(conv(x), activation)``: x (N, H, W, C) gives (N, OH, OW, C_out).

    In evaluation mode, within `no_grad`, batch normalisation is a fixed scale and offset of each channel: then they are
    folded into the convolution's weight and bias, once for each change of any of them, and one kernel runs in place of
    two. The result is equal but for rounding. The modules themselves run where they are hooked or of another type,
    under `autocast`, in 16 bits, on GPUs, and where their memory was handed out (``Tensor.numpy()``).

    Errors are those of the two modules.

    >>> import imgrec_engine as ie
    >>> conv, norm = ie.nn.Conv2d(2, 4, 3), ie.nn.BatchNorm2d(4).eval()
    >>> x = ie.ones((1, 5, 5, 2))
    >>> with ie.no_grad():
    ...     y = conv_norm(x, conv, norm)
    >>> bool(abs(y - norm(conv(x))).max() < 1e-5)
    True
    """
    folded = None if norm.training or is_recording() else _folded(conv, norm)
    if folded is None:
        y: Tensor = norm(conv(x), activation=activation)
        return y
    weight, bias = folded
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups, activation)


def _folded(conv: Conv2d, norm: BatchNorm2d) -> tuple[Tensor, Tensor] | None:
    """The weight and bias of both in one; None where the modules are to run themselves."""
    if type(conv) is not Conv2d or type(norm) is not BatchNorm2d or conv._forward_hooks or norm._forward_hooks:
        return None
    tensors = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    if conv.bias is not None:
        tensors.append(conv.bias)
    arrays = [tensor._array for tensor in tensors]
    dtype = arrays[0].dtype
    if region.dtype is not None or dtype not in (float32, float64) or not isinstance(arrays[0], np.ndarray):
        return None

    def fold(_: object) -> tuple[Tensor, Tensor]:
        scale = norm.weight / (norm.running_var + norm.eps) ** 0.5
        offset = norm.bias - norm.running_mean * scale
        bias = offset if conv.bias is None else offset + conv.bias * scale
        return conv.weight * scale.reshape(-1, 1, 1, 1), bias

    made: tuple[Tensor, Tensor] | None = packing.kept(
        arrays, [tensor._version for tensor in tensors], ("folded", norm.eps), fold
    )
    return made
