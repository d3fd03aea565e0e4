"""The models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from imgrec_engine.errors import ModelError, ShapeError
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor

SMALLEST = 8  # pixels on a side


class ImageModel(Module):
    """Base of the models here: logits (N, num_classes) from images (N, H, W, in_channels), float32.

    Those whose ``task`` is "transcription" read a string of classes: logits (N, T, num_classes + 1), where the last is
    CTC's blank, for each of T steps.

    ``config`` is {"name": ..., "arguments": {...}}, plain data from which ``create`` builds the same architecture.
    """

    task: ClassVar[str] = "classification"
    config: dict[str, Any]

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size

    def check_images(self, x: Tensor, exact_size: bool = False, frames: str = "") -> None:
        """ShapeError unless x is a batch of images with these channels and, where it matters, of this size."""
        size = self.image_size if exact_size else x.shape[-3:-1]
        if x.ndim != (5 if frames else 4) or x.shape[-3:] != (*size, self.in_channels):
            height, width = self.image_size if exact_size else ("H", "W")
            expected = f"(N, {frames}{height}, {width}, {self.in_channels})"
            raise ShapeError(f"{type(self).__name__}: the images have shape {x.shape}, expected {expected}")

    def extra_repr(self) -> str:
        """What it was made for."""
        return f"num_classes={self.num_classes}, in_channels={self.in_channels}, image_size={self.image_size}"


Model = TypeVar("Model", bound=type[ImageModel])
_MODELS: dict[str, type[ImageModel]] = {}


def register(name: str) -> Callable[[Model], Model]:
    """Makes a model known to ``create``; also for models of your own.

    The class takes num_classes, in_channels, image_size (a pair) and further arguments with defaults.
    """

    def add(model: Model) -> Model:
        _MODELS[name] = model
        return model

    return add


def names() -> list[str]:
    """The names that ``create`` knows.

    >>> "cnn_lstm" in names()
    True
    """
    return sorted(_MODELS)


def summaries() -> Iterator[tuple[str, str]]:
    """Each name with one line on what the model is."""
    return ((name, (inspect.getdoc(_MODELS[name]) or "").partition("\n")[0]) for name in names())


def task(name: str) -> str:
    """What a model is for: "classification", one class an image, or "transcription", a string of classes.

    >>> task("cnn"), task("crnn")
    ('classification', 'transcription')
    """
    return _known(name).task


def defaults(name: str) -> dict[str, Any]:
    """The arguments that a model takes beyond classes, channels and size, with their defaults.

    >>> defaults("cnn")
    {'width': 32, 'dropout': 0.0}
    """
    parameters = inspect.signature(_known(name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name not in _COMMON}


def _known(name: str) -> type[ImageModel]:
    if name not in _MODELS:
        raise ModelError(f"models.create: there is no model {name!r}; there are {', '.join(names())}")
    return _MODELS[name]


def create(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int | Sequence[int] = 32,
    **arguments: Any,
) -> ImageModel:
    """Builds a model with fresh weights.

    ``image_size`` is a side or (height, width), 8 or more each; ``arguments`` are the model's own, described at its
    class. Raises ModelError for an unknown name or a wrong argument.

    >>> import imgrec_engine as ie
    >>> model = ie.models.create("cnn", num_classes=4, in_channels=1, image_size=(12, 10))
    >>> model(ie.zeros((2, 12, 10, 1))).shape
    (2, 4)
    >>> again = ie.models.create(model.config["name"], **model.config["arguments"])
    """
    known = defaults(name)
    size = tuple(image_size) if np.iterable(image_size) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, _WHOLE) and side >= SMALLEST for side in size):
        raise ModelError(
            f"models.create: image_size is {image_size}, expected a side or (height, width), {SMALLEST} or more each"
        )
    for argument, value in [("num_classes", num_classes), ("in_channels", in_channels)]:
        if not isinstance(value, _WHOLE) or value < 1:
            raise ModelError(f"models.create: {argument} is {value!r}, expected a whole number of 1 or more")
    unknown = [key for key in arguments if key not in known]
    if unknown:
        raise ModelError(f"models.create: {name!r} takes no argument {unknown[0]!r}; it takes {', '.join(known)}")
    try:
        model = _MODELS[name](num_classes, in_channels, size, **arguments)
    except (TypeError, ValueError) as error:  # a module in it that cannot be built so
        raise ModelError(f"models.create: {name!r} with {arguments}: {error}") from error
    common = {"num_classes": int(num_classes), "in_channels": int(in_channels), "image_size": [*map(int, size)]}
    model.config = {"name": name, "arguments": {**common, **arguments}}
    return model


_WHOLE = (int, np.integer)
_COMMON = ("num_classes", "in_channels", "image_size")
