"""Writing an ONNX file: translated, checked, compared with the model, and only then put in its place."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import imgrec_engine
from imgrec_engine import checkpoint
from imgrec_engine import functional as F
from imgrec_engine.data import Dataset, Preprocessing, Standardize
from imgrec_engine.dtypes import float32, uint8
from imgrec_engine.errors import DataError, ExportError
from imgrec_engine.models import ImageModel
from imgrec_engine.nn import Module
from imgrec_engine.onnx.model import serialize
from imgrec_engine.onnx.parity import TOLERANCE, Parity, compare, outputs_of
from imgrec_engine.onnx.trace import random_batch
from imgrec_engine.onnx.translate import translate
from imgrec_engine.tensor import Tensor, tensor
from imgrec_engine.train import Recogniser
from imgrec_engine.train.tasks import task_of

BATCHES = (1, 3, 5)  # of random samples, on which a file is tried
IMAGES = 256  # of a recogniser's, in a batch

Metadata = Mapping[str, Any]


def export(
    model: Module, path: str | Path, example: Any = None, metadata: Metadata = MappingProxyType({})
) -> Parity | None:
    """Writes what a model computes in evaluation mode as an ONNX file (opset 18) whose batch may have any length.

    Args:
        model: a float32 model on the CPU that takes one tensor (N, ...) and returns one or several.
        path: of the file; what is there is replaced once the new file is complete and checked.
        example: a batch (N, ...) of an input's dtype and shape, as a tensor or array. An `ImageModel` for single
            images needs none: it takes (N, *image_size, in_channels). Its values do not matter, but for integers,
            of which some are drawn.
        metadata: is put into the file; what is not text becomes JSON.

    Returns:
        How far onnxruntime's outputs are from the model's on random batches of 1, 3 and 5; None, and nothing has been
        compared, where onnxruntime is not installed.

    Raises:
        ExportError: an operation has no translation, or depends on the batch or on values in a way that no graph can
            say; outputs differ by more than 1e-4 (of the largest, above 1); `onnx` is not installed.

    >>> import imgrec_engine as ie
    >>> model = ie.models.create("cnn_lstm", num_classes=10, in_channels=1, image_size=28)
    >>> parity = ie.onnx.export(model, "model.onnx")    # doctest: +SKIP
    >>> print(parity)                                   # doctest: +SKIP
    onnxruntime 1.32.0 on 9 samples: top-1 equal on 9, outputs differ by 8.9e-08 at most

    """
    images = isinstance(model, ImageModel)
    if example is None:
        if not isinstance(model, ImageModel):
            raise ExportError(f"onnx: {type(model).__name__} needs an example of its input, (N, ...)")
        example = np.zeros((1, *model.image_size, model.in_channels), np.float32)
    array = example._array if isinstance(example, Tensor) else np.asarray(example)
    names = ("images", "logits") if images else ("input", "output")
    serialized = serialize(translate(model, array, *names), metadata, imgrec_engine.__version__)
    batches = [random_batch(array, count) for count in BATCHES]
    parity = compare(functools.partial(outputs_of, model), serialized, batches, task_of(model))
    if parity is not None and not parity.difference <= TOLERANCE * max(1.0, parity.largest):
        raise ExportError(f"onnx: the file does not compute what the model does: {parity}")
    _write(serialized, path)
    return parity


def export_recogniser(recogniser: Recogniser, path: str | Path, images: Dataset) -> Parity | None:
    """Writes a recogniser's model with its normalisation, after comparing the two on a data set's images.

    The file takes pixels as they are, of the recogniser's size and channels: (N, H, W, C), or clips (N, T, H, W, C), of
    the dtype that the data set has, uint8 in 0...255 or float32 in 0...1. It gives logits (N, classes), or of a model
    that reads strings (N, T, classes + 1) with CTC's blank as the last. Its metadata names the classes, the model, the
    preprocessing and the symmetries, over which the file takes the mean as the recogniser does.

    Returns and raises what ``export`` does; also ExportError where, for any image, the most likely class (the string)
    is another one or a logit differs by more than 1e-4. DataError where the data set has other classes, or no images.
    """
    if tuple(images.classes) != recogniser.classes:
        raise DataError(f"onnx: the model knows the classes {recogniser.classes}, the data has {tuple(images.classes)}")
    if not len(images):
        raise DataError("onnx: the data set holds no images to compare on")
    model = WithPreprocessing(recogniser.answering, recogniser.preprocessing)
    example = next(_prepared(recogniser.preprocessing, images))
    metadata = {
        "classes": list(recogniser.classes),
        "model": recogniser.model.config,
        "preprocessing": recogniser.preprocessing.to_config(),
        "symmetries": list(recogniser.symmetries),
        "pixels": "0 to 255" if example.dtype == uint8 else "0 to 1",
    }
    serialized = serialize(translate(model, example, "images", "logits"), metadata, imgrec_engine.__version__)
    batches = _prepared(recogniser.preprocessing, images)
    parity = compare(functools.partial(_logits, recogniser), serialized, batches, recogniser.task)
    if parity is not None and (parity.same_top < parity.samples or not parity.difference <= TOLERANCE):
        raise ExportError(f"onnx: the file does not recognise what the model does: {parity}")
    _write(serialized, path)
    return parity


class WithPreprocessing(Module):
    """A model that takes pixels: they are scaled, standardised and normalised as `Preprocessing` has it.

    Images (N, H, W, C) of the model's size and channels, or clips (N, T, H, W, C), uint8 or float32.
    """

    def __init__(self, model: Module, preprocessing: Preprocessing) -> None:
        self.model = model
        self.preprocessing = preprocessing

    def forward(self, x: Tensor) -> Tensor:
        """What the model makes of the pixels."""
        if x.dtype == uint8:
            x = x.to(float32) / 255
        if self.preprocessing.per_image:
            axes = tuple(range(1, x.ndim))
            deviation = F.maximum(F.std(x, axes, correction=0, keepdims=True), Standardize().min_std)
            x = (x - x.mean(axes, keepdims=True)) / deviation
        mean, std = (
            tensor(np.array(numbers, np.float32)) for numbers in (self.preprocessing.mean, self.preprocessing.std)
        )
        logits: Tensor = self.model((x - mean) / std)
        return logits


def _prepared(preprocessing: Preprocessing, images: Dataset) -> Iterator[NDArray[Any]]:
    """The pixels of a data set's images in batches, with the channels and the size of the model."""
    geometry = preprocessing.geometry()
    for start in range(0, len(images), IMAGES):
        loaded, _ = images.gather(range(start, min(start + IMAGES, len(images))))
        yield np.stack([geometry(image) for image in loaded])


def _logits(recogniser: Recogniser, pixels: NDArray[Any]) -> list[NDArray[Any]]:
    """What the recogniser itself makes of images that have its size."""
    return outputs_of(recogniser.answering, recogniser.preprocessing.compose().batch(pixels, []))


def _write(serialized: bytes, path: str | Path) -> None:
    with checkpoint.replacing(path) as file:
        file.write(serialized)
