"""What is measured: the same work for us and for PyTorch, from the same numbers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
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


def _convolutions() -> Iterator[Case]:
    for n, size, c, k, kernel, stride in (
        (64, 28, 1, 32, 3, 1),
        (8, 56, 64, 64, 3, 1),
        (8, 28, 128, 128, 3, 1),
        (8, 14, 256, 256, 3, 1),
        (8, 7, 512, 512, 3, 1),
        (32, 32, 64, 64, 3, 1),
        (4, 224, 3, 64, 7, 2),
        (16, 28, 128, 256, 1, 1),
        (8, 56, 64, 128, 3, 2),
        (64, 14, 32, 64, 5, 1),
    ):
        padding = kernel // 2
        out = (size + 2 * padding - kernel) // stride + 1
        yield Case(
            "conv2d",
            f"{n}x{size}x{size}x{c} -> {k}, {kernel}x{kernel}" + (f"/{stride}" if stride > 1 else ""),
            _draw((n, size, size, c), (k, kernel, kernel, c), scale=0.5),
            functools.partial(F.conv2d, stride=stride, padding=padding),
            _peer("conv2d", stride=stride, padding=padding),
            2.0 * n * out * out * k * c * kernel * kernel,
            to_theirs=_channels_first,
            from_theirs=lambda output: output.permute(0, 2, 3, 1),
        )


def _recurrences() -> Iterator[Case]:
    for batch, steps, inputs, hidden in (
        (32, 64, 128, 128),
        (64, 28, 28, 128),
        (16, 100, 512, 512),
        (1, 100, 128, 256),
    ):
        layer = ie.nn.LSTM(inputs, hidden)

        def theirs(torch: Any, layer: Any = layer, sizes: tuple[int, int] = (inputs, hidden)) -> Forward:
            twin = torch.nn.LSTM(*sizes, batch_first=True)
            twin.load_state_dict({name: torch.from_numpy(value.numpy()) for name, value in layer.state_dict().items()})
            return lambda x: twin(x)[0]

        yield Case(
            "lstm",
            f"batch {batch}, {steps} steps, {inputs} -> {hidden}",
            _draw((batch, steps, inputs)),
            lambda x, layer=layer: layer(x)[0],
            theirs,
            2.0 * batch * steps * 4 * hidden * (inputs + hidden),
        )


def _attentions() -> Iterator[Case]:
    for batch, heads, length, size, causal in (
        (16, 3, 197, 64, False),
        (64, 6, 65, 64, False),
        (1, 8, 2048, 64, True),
        (2, 4, 1024, 128, False),
    ):
        yield Case(
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


def _others() -> Iterator[Case]:
    rows = 32 * 28 * 28
    yield Case(
        "norm",
        "batch_norm, 32x28x28x64",
        _draw((32, 28, 28, 64), (64,), (64,)),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda torch: lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, training=True),
        8.0 * rows * 64,
        to_theirs=_channels_first,
        from_theirs=lambda output: output.permute(0, 2, 3, 1),
    )
    yield Case(
        "norm",
        "layer_norm, 4160x384",
        _draw((4160, 384), (384,), (384,)),
        F.layer_norm,
        lambda torch: lambda x, w, b: torch.nn.functional.layer_norm(x, (384,), w, b),
        8.0 * 4160 * 384,
    )
    yield Case(
        "pool2d",
        "max_pool2d 2x2, 32x56x56x64",
        _draw((32, 56, 56, 64)),
        lambda x: F.max_pool2d(x, 2),
        _peer("nn.functional.max_pool2d", kernel_size=2),
        32.0 * 56 * 56 * 64,
        to_theirs=_channels_first,
        from_theirs=lambda output: output.permute(0, 2, 3, 1),
    )
    targets = np.arange(4096) % 1000
    yield Case(
        "loss",
        "cross_entropy, 4096x1000",
        _draw((4096, 1000)),
        lambda x: F.cross_entropy(x, targets),
        lambda torch: lambda x: torch.nn.functional.cross_entropy(x, torch.from_numpy(targets)),
        5.0 * 4096 * 1000,
    )


def cases() -> list[Case]:
    """All cases, by family."""
    return [*_convolutions(), *_recurrences(), *_attentions(), *_others()]
