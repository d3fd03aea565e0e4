"""What is measured: the same work for us and for PyTorch, from the same numbers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import imgrec_engine as ie
from imgrec_engine import functional as F

Forward = Callable[..., Any]
Inputs = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """One op at one shape. `ours` and `theirs` take the inputs as tensors and return the output.

    The two may want other layouts: `to_theirs` turns our inputs into PyTorch's, `from_theirs` its output into ours.
    `flops` counts the forward pass; with the backward pass it is three times that (3.5 times for attention).
    """

    family: str
    name: str
    inputs: Inputs
    ours: Forward
    theirs: Callable[[Any], Forward]
    flops: float
    with_backward: float = 3.0
    to_theirs: Callable[[list[Any]], list[Any]] = list
    from_theirs: Callable[[Any], Any] = lambda output: output


def _draw(*shapes: tuple[int, ...], scale: float = 1.0) -> Inputs:
    generator = np.random.Generator(np.random.Philox(5))
    return [(scale * generator.standard_normal(shape)).astype(np.float32) for shape in shapes]


def _peer(name: str, **settings: Any) -> Callable[[Any], Forward]:
    """PyTorch's function of this name, once PyTorch is there."""
    return lambda torch: functools.partial(operator.attrgetter(name)(torch), **settings)


def _channels_first(tensors: list[Any]) -> list[Any]:
    """Images and filters as PyTorch indexes them, in our memory: its channels-last format."""
    return [t.permute(0, 3, 1, 2) if t.ndim == 4 else t for t in tensors]


def _heads_first(tensors: list[Any]) -> list[Any]:
    return [t.permute(0, 2, 1, 3) for t in tensors]


def conv2d(n: int, size: int, c: int, k: int, kernel: int, stride: int) -> Case:
    """Square images and filters, padded by half a filter."""
    padding = kernel // 2
    out = (size + 2 * padding - kernel) // stride + 1
    return Case(
        "conv2d",
        f"{n}x{size}x{size}x{c} -> {k}, {kernel}x{kernel}" + (f"/{stride}" if stride > 1 else ""),
        _draw((n, size, size, c), (k, kernel, kernel, c), scale=0.5),
        functools.partial(F.conv2d, stride=stride, padding=padding),
        _peer("conv2d", stride=stride, padding=padding),
        2.0 * n * out * out * k * c * kernel * kernel,
        to_theirs=_channels_first,
        from_theirs=lambda output: output.permute(0, 2, 3, 1),
    )


def lstm(batch: int, steps: int, inputs: int, hidden: int) -> Case:
    """One layer in one direction; its weights go where the input is."""
    layer = ie.nn.LSTM(inputs, hidden)

    def theirs(torch: Any) -> Forward:
        twin = torch.nn.LSTM(inputs, hidden, batch_first=True)
        twin.load_state_dict({name: torch.from_numpy(value.numpy()) for name, value in layer.state_dict().items()})
        return lambda x: twin.to(x.device, x.dtype)(x)[0]

    return Case(
        "lstm",
        f"batch {batch}, {steps} steps, {inputs} -> {hidden}",
        _draw((batch, steps, inputs)),
        lambda x: layer.to(x.device, x.dtype)(x)[0],
        theirs,
        2.0 * batch * steps * 4 * hidden * (inputs + hidden),
    )


def attention(batch: int, heads: int, length: int, size: int, causal: bool) -> Case:
    """As many queries as keys."""
    return Case(
        "attention",
        f"{batch} x {heads} heads x {length} x {size}" + (", causal" if causal else ""),
        _draw(*[(batch, length, heads, size)] * 3),
        functools.partial(F.scaled_dot_product_attention, is_causal=causal),
        _peer("nn.functional.scaled_dot_product_attention", is_causal=causal),
        4.0 * batch * heads * length * length * size * (0.5 if causal else 1.0),
        with_backward=3.5,
        to_theirs=_heads_first,
        from_theirs=lambda output: output.permute(0, 2, 1, 3),
    )


def batch_norm(n: int, size: int, c: int) -> Case:
    """Over square images, in training."""
    return Case(
        "norm",
        f"batch_norm, {n}x{size}x{size}x{c}",
        _draw((n, size, size, c), (c,), (c,)),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda torch: lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, training=True),
        8.0 * n * size * size * c,
        to_theirs=_channels_first,
        from_theirs=lambda output: output.permute(0, 2, 3, 1),
    )


def layer_norm(rows: int, c: int) -> Case:
    """Each row by itself."""
    return Case(
        "norm",
        f"layer_norm, {rows}x{c}",
        _draw((rows, c), (c,), (c,)),
        F.layer_norm,
        lambda torch: lambda x, w, b: torch.nn.functional.layer_norm(x, (c,), w, b),
        8.0 * rows * c,
    )


def max_pool2d(n: int, size: int, c: int) -> Case:
    """The largest of 2x2."""
    return Case(
        "pool2d",
        f"max_pool2d 2x2, {n}x{size}x{size}x{c}",
        _draw((n, size, size, c)),
        lambda x: F.max_pool2d(x, 2),
        _peer("nn.functional.max_pool2d", kernel_size=2),
        1.0 * n * size * size * c,
        to_theirs=_channels_first,
        from_theirs=lambda output: output.permute(0, 2, 3, 1),
    )


def cross_entropy(rows: int, classes: int) -> Case:
    """Against one class a row."""
    targets = np.arange(rows) % classes
    ours_on = functools.cache(lambda device: ie.tensor(targets, device=device))

    def theirs(torch: Any) -> Forward:
        theirs_on = functools.cache(lambda device: torch.from_numpy(targets).to(device))
        return lambda x: torch.nn.functional.cross_entropy(x, theirs_on(x.device))

    return Case(
        "loss",
        f"cross_entropy, {rows}x{classes}",
        _draw((rows, classes)),
        lambda x: F.cross_entropy(x, ours_on(x.device)),
        theirs,
        5.0 * rows * classes,
    )


def cases() -> list[Case]:
    """All cases for one thread of a processor, by family."""
    return [
        conv2d(64, 28, 1, 32, 3, 1),
        conv2d(8, 56, 64, 64, 3, 1),
        conv2d(8, 28, 128, 128, 3, 1),
        conv2d(8, 14, 256, 256, 3, 1),
        conv2d(8, 7, 512, 512, 3, 1),
        conv2d(32, 32, 64, 64, 3, 1),
        conv2d(4, 224, 3, 64, 7, 2),
        conv2d(16, 28, 128, 256, 1, 1),
        conv2d(8, 56, 64, 128, 3, 2),
        conv2d(64, 14, 32, 64, 5, 1),
        lstm(32, 64, 128, 128),
        lstm(64, 28, 28, 128),
        lstm(16, 100, 512, 512),
        lstm(1, 100, 128, 256),
        attention(16, 3, 197, 64, False),
        attention(64, 6, 65, 64, False),
        attention(1, 8, 2048, 64, True),
        attention(2, 4, 1024, 128, False),
        batch_norm(32, 28, 64),
        layer_norm(4160, 384),
        max_pool2d(32, 56, 64),
        cross_entropy(4096, 1000),
    ]


def gpu_cases() -> list[Case]:
    """What fills a GPU."""
    return [
        conv2d(64, 56, 64, 64, 3, 1),
        conv2d(64, 28, 128, 128, 3, 1),
        conv2d(64, 14, 256, 256, 3, 1),
        conv2d(64, 7, 512, 512, 3, 1),
        conv2d(64, 224, 3, 64, 7, 2),
        conv2d(64, 28, 256, 512, 1, 1),
        attention(8, 12, 1024, 64, False),
        attention(4, 16, 2048, 128, True),
        lstm(64, 128, 512, 512),
        batch_norm(128, 56, 64),
        layer_norm(131072, 768),
        max_pool2d(128, 112, 64),
        cross_entropy(16384, 4096),
    ]
