"""Images that mean the same whichever way round they lie: their class is judged from all these ways together."""

from __future__ import annotations

from collections.abc import Sequence

from imgrec_engine import functional as F
from imgrec_engine.errors import DataError
from imgrec_engine.models import ImageModel
from imgrec_engine.nn import Module
from imgrec_engine.tensor import Tensor

Way = tuple[bool, bool, bool]  # whether rows and columns change places, and then whether each of them is turned round

SYMMETRIES: dict[str, Way] = {
    "flip": (False, False, True),
    "flip_vertical": (False, True, False),
    "rotate90": (True, True, False),
}
"""By the names of the augmentations that draw from them."""


def ways(symmetries: Sequence[str]) -> list[Way]:
    """All the ways round that follow from some symmetries, the image as it is first; DataError for an unknown name.

    >>> len(ways([])), len(ways(["flip"])), len(ways(["rotate90"])), len(ways(["flip", "rotate90"]))
    (1, 2, 4, 8)
    """
    unknown = [name for name in symmetries if name not in SYMMETRIES]
    if unknown:
        raise DataError(f"symmetries: {unknown[0]!r} is not known; there are {', '.join(SYMMETRIES)}")
    found: list[Way] = [(False, False, False)]
    for way in found:  # which grows until nothing new follows
        found += [new for name in dict.fromkeys(symmetries) if (new := _then(way, SYMMETRIES[name])) not in found]
    return found


def _then(first: Way, second: Way) -> Way:
    """One way after another. Rows and columns that change places take with them whether they are turned round."""
    transposed, *turned = first
    if second[0]:
        turned.reverse()
    return transposed != second[0], turned[0] != second[1], turned[1] != second[2]


class Symmetric(Module):
    """A classifier whose logits are the mean over all the ways round in which its images may lie.

    Images (N, ..., H, W, C) give logits (N, classes), those of each way by the model itself; it takes as many times as
    long as there are ways. Without symmetries it is the model itself, of whatever task. Krizhevsky, Sutskever and
    Hinton, "ImageNet classification with deep convolutional neural networks", NeurIPS 2012, average so over crops and
    mirror images; up to a factor, the mean of logits is the geometric one of probabilities.

    >>> import imgrec_engine as ie
    >>> model = ie.models.create("cnn", num_classes=3, in_channels=1, image_size=16).eval()
    >>> x = ie.randn(2, 16, 16, 1)
    >>> mean = (model(x) + model(F.flip(x, -2))) / 2
    >>> (Symmetric(model, ["flip"])(x) - mean).abs().max().item() < 1e-6
    True
    """

    def __init__(self, model: ImageModel, symmetries: Sequence[str]) -> None:
        self.model = model
        self.task = model.task
        self.symmetries = tuple(symmetries)
        self.ways = ways(symmetries)
        height, width = model.image_size
        if "rotate90" in symmetries and height != width:
            raise DataError(f"symmetries: 'rotate90' is for images as high as wide, but these are {height} x {width}")
        if symmetries and model.task != "classification":
            raise DataError(f"symmetries: {', '.join(symmetries)} is for one class an image, not for strings")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        total: Tensor = self.model(x)
        for way in self.ways[1:]:
            total = total + self.model(_lying(x, way))
        return total / len(self.ways) if len(self.ways) > 1 else total

    def extra_repr(self) -> str:
        """Which symmetries."""
        return ", ".join(self.symmetries)


def _lying(x: Tensor, way: Way) -> Tensor:
    """The images lying another way round."""
    transposed, *turned = way
    if transposed:
        x = F.transpose(x, -3, -2)
    axes = tuple(axis for axis, around in zip((-3, -2), turned, strict=True) if around)
    lying: Tensor = F.flip(x, axes) if axes else x
    return lying
