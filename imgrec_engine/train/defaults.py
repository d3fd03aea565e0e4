"""Settings for images that no recipe was written for, chosen by their number and size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from imgrec_engine.data import Dataset
from imgrec_engine.train.augmentations import standard

FEW, MANY = 2000, 5000  # images to train on
LONGEST_SIDE = 96  # pixels: larger images are scaled down
SQUARE = 64  # pixels: the side where there are more than FEW images of different shapes
LINE = 32  # pixels: the height of images with a string in them; higher ones are scaled down


class Choice(NamedTuple):
    """A setting of `RunConfig`, and why it was chosen."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = self.value
        if self.name == "image_size":
            value = "{}x{}".format(*value)
        elif isinstance(value, dict):
            value = ", ".join(value)
        return f"{self.name.replace('_', ' ')}: {value} ({self.reason})"


def choose(dataset: Dataset, given: Mapping[str, Any]) -> list[Choice]:
    """What suits a training part, except for the settings that are given.

    >>> from imgrec_engine.data import ArrayDataset
    >>> photos = ArrayDataset(np.zeros((200, 480, 640, 3), np.uint8), np.arange(200) % 2, ("cat", "dog"))
    >>> for choice in choose(photos, {"batch_size": 20}):
    ...     print(choice)
    image size: 72x96 (the images of 480x640 would take long)
    model: cnn (a small network for 200 images)
    average: 0.99 (the weights' moving average is steadier than the last step's)
    augment: crop, affine, flip, color (200 images are few, so each is varied; flip mirrors photographs)
    label smoothing: 0.05 (200 images are soon known by heart)
    validation: 0.2 (of 200 images, a tenth is too few to choose by)
    """
    shape = dataset.image_shape
    if shape is not None and dataset.labels.ndim > 1:
        choices = _choose_for_strings(shape, len(dataset))
    else:
        choices = [*_choose_size(shape, len(dataset)), _choose_model(shape, len(dataset))]
        choices += [*_choose_steps(len(dataset)), _choose_augmentation(dataset, shape), *_choose_balance(dataset)]
    if len(dataset) < FEW and dataset.labels.ndim == 1:
        choices.append(Choice("label_smoothing", 0.05, f"{len(dataset)} images are soon known by heart"))
    if len(dataset) < 400:
        choices.append(Choice("validation", 0.2, f"of {len(dataset)} images, a tenth is too few to choose by"))
    return [choice for choice in choices if choice.name not in given]


def _choose_for_strings(shape: tuple[int, ...], count: int) -> list[Choice]:
    height, width = shape[-3:-1]
    choices = [Choice("model", "crnn", "the labels are strings")]
    if height > LINE:
        size = (LINE, max(8, round(width * LINE / height)))
        choices.append(Choice("image_size", size, f"the images of {height}x{width} would take long"))
    affine = {"degrees": 3.0, "scale": 0.08, "shear": 5.0, "translate": 0.04}
    choices.append(Choice("augment", {"affine": affine}, "small maps leave what is written readable"))
    return [*choices, *_choose_steps(count)]


def _choose_size(shape: tuple[int, ...] | None, count: int) -> list[Choice]:
    if shape is None:
        side = LONGEST_SIDE if count < FEW else SQUARE
        return [Choice("image_size", (side, side), "the images differ in shape")]
    height, width = shape[-3:-1]
    longest = max(height, width)
    if longest <= LONGEST_SIDE:
        return []
    size = tuple(max(8, round(side * LONGEST_SIDE / longest)) for side in (height, width))
    return [Choice("image_size", size, f"the images of {height}x{width} would take long")]


def _choose_model(shape: tuple[int, ...] | None, count: int) -> Choice:
    if shape is not None and len(shape) == 4:
        return Choice("model", "video_lstm", "these are clips")
    small = shape is not None and max(shape[:2]) <= SQUARE
    if count >= MANY and small:
        return Choice("model", "resnet20", f"{count} images are enough for a deep network")
    return Choice("model", "cnn", f"a small network for {count} images")


def _choose_steps(count: int) -> list[Choice]:
    choices = []
    if count < FEW:
        size = 16 if count < 500 else 32
        choices.append(Choice("batch_size", size, f"so that an epoch of {count} images has steps enough"))
    decay = 0.99 if count < FEW else 0.998
    return [*choices, Choice("average", decay, "the weights' moving average is steadier than the last step's")]


def _choose_augmentation(dataset: Dataset, shape: tuple[int, ...] | None) -> Choice:
    count, names = len(dataset), ["crop"]
    reason = "shifts by some pixels"
    if count < FEW and (shape is None or len(shape) == 3):
        names.append("affine")
        reason = f"{count} images are few, so each is varied"
    if dataset[0][0].shape[-1] == 3:
        names += ["flip", "color"] if count < FEW else ["flip"]
        reason += "; flip mirrors photographs"
    return Choice("augment", standard(names), reason)


def _choose_balance(dataset: Dataset) -> list[Choice]:
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if counts.max() < 1.5 * counts.min():
        return []
    reason = f"a class has {counts.min()} images and another {counts.max()}; both get the same part in the loss"
    return [Choice("class_weights", True, reason)]
