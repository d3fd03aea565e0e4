"""Two-dimensional convolution."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from imgrec_engine import kernels, packing
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable, is_recording
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.activation import NEEDS_INPUT, activation_gradient, activation_name

__all__ = ["conv2d"]

Pair = tuple[int, int]
Shape = tuple[int, ...]


def _pair(name: str, value: Any) -> Pair:
    if type(value) is int:
        return value, value
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(item, int) for item in pair):
        raise TypeError(f"conv2d: {name} is {value!r}, expected a whole number or a pair (height, width) of them")
    return pair


def _padding(padding: Any, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """(before, after) for the height and the width; "same" puts the odd one after, as PyTorch does."""
    if not isinstance(padding, str):
        height, width = _pair("padding", padding)
        return (height, height), (width, width)
    if padding != "same":
        raise ValueError(f"conv2d: padding is {padding!r}, expected a whole number, a pair of them or 'same'")
    if stride != (1, 1):
        raise ValueError(f"conv2d: padding='same' needs stride 1, but stride is {stride}")
    height, width = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    return (height // 2, height - height // 2), (width // 2, width - width // 2)


def _output(size: int, kernel: int, stride: int, sides: Pair, dilation: int) -> int:
    return (size + sum(sides) - dilation * (kernel - 1) - 1) // stride + 1


def _settings(stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: str | None) -> tuple[Any, ...]:
    """What a convolution is known by besides shapes; numbers that equal whole ones must not pass for them."""
    if not isinstance(groups, int):
        raise TypeError(f"conv2d: groups is {groups!r}, expected a whole number")
    if type(stride) is not int:
        stride = _pair("stride", stride)
    if type(dilation) is not int:
        dilation = _pair("dilation", dilation)
    if type(padding) is not int and not isinstance(padding, str):
        padding = _pair("padding", padding)
    return stride, padding, dilation, groups, algorithm


class _Convolution:
    """What the kernels are told about convolutions of certain shapes besides their arrays, and their plans."""

    def __init__(
        self,
        module: Any,
        context: Any,
        x: Shape,
        weight: Shape,
        x_dtype: np.dtype[Any],
        weight_dtype: np.dtype[Any],
        settings: tuple[Any, ...],
    ) -> None:
        if len(x) != 4 or len(weight) != 4:
            raise ShapeError(
                f"conv2d: x is {x} and weight {weight}; expected (N, H, W, C) and (C_out, KH, KW, C / groups)"
            )
        if not is_floating(x_dtype):
            raise DTypeError(f"conv2d: x is {x_dtype.name}, expected float32, float64, float16 or bfloat16")
        if weight_dtype != x_dtype:
            raise DTypeError(f"conv2d: weight is {weight_dtype.name}, but x is {x_dtype.name}; expected one dtype")
        given_stride, given_padding, given_dilation, groups, algorithm = settings
        stride, dilation = _pair("stride", given_stride), _pair("dilation", given_dilation)
        padding = _padding(given_padding, weight[1:3], stride, dilation)
        self.module, self.context = module, context
        self.parameters = module.Conv2dParameters(stride, padding, dilation, groups, algorithm or "")
        self._shape = x
        self._make = functools.partial(module.conv2d_plan, context, x, weight, self.parameters, x_dtype)
        self.forward = kernels.new_plan(self._make, module.Conv2dPass.forward)  # checks the shapes
        self.output = (x[0], *map(_output, x[1:3], weight[1:3], stride, padding, dilation), weight[0])
        self.channels = weight[:1]
        phases = tuple(map(min, x[1:3], stride))  # of the stride, those that an image has: weights are packed so
        self._layout = (stride, padding, dilation, groups, algorithm, phases)
        self.forward_layout = packing.Layout(self.forward, ("forward", *self._layout), self._pack("forward"))

    def _pack(self, which: str) -> Callable[..., None]:
        def pack(memory: Any, weight: Any) -> None:
            which_pass = getattr(self.module.Conv2dPass, which)
            self.module.conv2d_pack(self.context, memory, self._shape, weight, self.parameters, which_pass)

        return pack

    @functools.cached_property
    def backward_input(self) -> kernels.Plan:
        """The plan of the pass that gives the gradient of x."""
        return kernels.new_plan(self._make, self.module.Conv2dPass.backward_input)

    @functools.cached_property
    def backward_input_layout(self) -> packing.Layout:
        """How that pass reads weights."""
        return packing.Layout(self.backward_input, ("backward_input", *self._layout), self._pack("backward_input"))

    @functools.cached_property
    def backward_weight(self) -> kernels.Plan:
        """The plan of the pass that gives the gradients of weight and bias."""
        return kernels.new_plan(self._make, self.module.Conv2dPass.backward_weight)


_convolution = functools.lru_cache(maxsize=1024)(_Convolution)  # the same one for the same description


@differentiable(precision="low")
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | Literal["same"] = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    algorithm: str | None = None,
) -> Result:
    """Cross-correlates images with filters, adds a bias and applies an activation.

    ``y[n, i, j, o] = activation(bias[o] + sum x[n, i*stride - padding + kh*dilation, ..., c] weight[o, kh, kw, c])``

    Args:
        x: images (N, H, W, C): float32, float64, float16 or bfloat16. The 16-bit types accumulate in float32.
        weight: filters (C_out, KH, KW, C / groups), of the dtype of x.
        bias: (C_out,), of the dtype of x.
        stride: step between outputs, one number or (height, width); as for padding and dilation.
        padding: zeros on each side, or "same" for outputs as large as x (stride 1 only).
        dilation: distance between the taps of a filter.
        groups: channels are split into so many groups, each with its own filters; C groups are a depthwise convolution.
        activation: None, "relu", "gelu", "silu", "sigmoid" or "tanh", applied before y is written.
        algorithm: None lets the engine choose; "direct" sums the products themselves; "winograd", on the CPU alone, has
            fewer multiplies and about twice the rounding error, for stride 1, 3x3 or 5x5 filters and 16 channels or
            more in a group.

    Returns:
        (N, OH, OW, C_out) with OH = (H + 2*padding - dilation*(KH - 1) - 1) // stride + 1.

    Raises:
        ShapeError: shapes, stride, padding, dilation or groups that do not fit each other.
        DTypeError: dtypes that differ or are not floating.
        ValueError: an unknown activation or algorithm, or one that does not serve this convolution; "same" with a
            stride.

    Sources: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016); Lavin and Gray, "Fast
    algorithms for convolutional neural networks" (2015).

    >>> import imgrec_engine as ie
    >>> y = conv2d(ie.ones((1, 5, 5, 2)), ie.ones((3, 3, 3, 2)), padding=1)
    >>> y.shape
    (1, 5, 5, 3)
    >>> y.numpy()[0, 0, :, 0]
    array([ 8., 12., 12., 12.,  8.], dtype=float32)

    """
    kind = activation_name("conv2d", activation)
    module, context = kernels.of(x)
    settings = _settings(stride, padding, dilation, groups, algorithm)
    call = _convolution(module, context, x.shape, weight.shape, x.dtype, weight.dtype, settings)
    versions = packing.lasting_versions(weight)
    x, weight = contiguous(x), contiguous(weight)
    if bias is not None:
        bias = contiguous(bias)
    y = empty(call.output, x.dtype, x)
    pre_activation = empty_like(y) if kind in NEEDS_INPUT and is_recording() else None
    module.conv2d_forward(
        context,
        y,
        pre_activation,
        x,
        weight,
        call.forward_layout.of((weight,), versions),
        bias,
        call.parameters,
        kind,
        kernels.workspace(call.forward, x),
    )
    saved = y if pre_activation is None and kind else pre_activation

    def backward(dy: Array, needs: Needs) -> Gradients:
        module, context, parameters = call.module, call.context, call.parameters
        dy = contiguous(dy) if saved is None else activation_gradient(kind, dy, saved)
        dx = empty_like(x) if needs[0] else None
        dweight = empty_like(weight) if needs[1] else None
        dbias = empty(call.channels, x.dtype, x) if needs[2] else None
        if needs[0]:
            packed = call.backward_input_layout.of((weight,), versions)
            workspace = kernels.workspace(call.backward_input, x)
            module.conv2d_backward_input(context, dx, dy, weight, packed, parameters, workspace)
        if needs[1] or needs[2]:
            workspace = kernels.workspace(call.backward_weight, x)
            module.conv2d_backward_weight(context, dweight, dbias, x, weight, dy, parameters, workspace)
        return dx, dweight, dbias

    return y, backward
