"""The augmentations that a run's configuration names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from imgrec_engine.data import (
    ColorJitter,
    Mixing,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomVerticalFlip,
    Transform,
)
from imgrec_engine.errors import DataError

Size = tuple[int, int]


def _crop(size: Size, padding: int | None = None) -> Transform:
    """Shifts by up to ``padding`` pixels, a fourteenth of the shorter side where it is not given."""
    return RandomCrop(size, max(1, min(size) // 14) if padding is None else padding)


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "crop": _crop,
    "flip": RandomHorizontalFlip,
    "flip_vertical": RandomVerticalFlip,
    "rotate90": RandomRotate90,
    "affine": RandomAffine,
    "color": ColorJitter,
    "erase": RandomErasing,
}
"""By name, in the order in which they are applied."""

MIXINGS = ("mixup", "cutmix")
"""What is done to whole batches: `Mixing`'s arguments, whose one argument here is ``alpha``."""

NAMES = (*TRANSFORMS, *MIXINGS)


STANDARD: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 10.0, "scale": 0.1, "shear": 5.0},
    "color": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "mixup": {"alpha": 0.2},
}
"""What is usual where nobody gives amounts and those of the transform itself are 0, or much."""


def standard(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The table of a configuration for names alone, with usual amounts.

    >>> standard(["flip", "mixup"])
    {'flip': {}, 'mixup': {'alpha': 0.2}}
    """
    return {name: dict(STANDARD.get(name, {})) for name in names}


def build(augment: Mapping[str, Mapping[str, Any]], size: Size) -> tuple[list[Transform], Mixing | None]:
    """The transforms of images, in the table's order, and the mixing of batches.

    DataError for a name or an argument that there is not, and for an argument that is out of bounds.

    >>> build({"mixup": {"alpha": 0.2}, "flip": {}}, (28, 28))
    ([RandomHorizontalFlip(p=0.5)], Mixing(mixup=0.2, cutmix=0.0))
    """
    unknown = [name for name in augment if name not in NAMES]
    if unknown:
        raise DataError(f"augment: {unknown[0]!r} is not known; there are {', '.join(NAMES)}")
    transforms = []
    for name, make in TRANSFORMS.items():
        if name in augment:
            wanted = functools.partial(make, size) if make is _crop else make
            transforms.append(_called(f"augment.{name}", wanted, augment[name]))
    alphas = {
        name: _called(f"augment.{name}", lambda alpha=1.0: alpha, augment[name]) for name in MIXINGS if name in augment
    }
    return transforms, Mixing(**alphas) if alphas else None


def _called(what: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    known = inspect.signature(make).parameters
    for name in arguments:
        if name not in known:
            raise DataError(f"{what}: there is no argument {name!r}; there are {', '.join(known) or 'none'}")
    try:
        return make(**arguments)
    except DataError as error:
        raise DataError(f"{what}: {error}") from None


def strengthened(augment: Mapping[str, Mapping[str, Any]], factor: float) -> dict[str, dict[str, Any]]:
    """The same with every amount times ``factor``, as far as its bounds allow; mirroring and turning stay.

    >>> strengthened({"erase": {"p": 0.6}, "crop": {"padding": 3}, "flip": {}}, 2.0)
    {'erase': {'p': 1.0}, 'crop': {'padding': 6}, 'flip': {}}
    """
    return {
        name: dict(arguments) if name in _SYMMETRIES else _scaled(name, arguments, factor)
        for name, arguments in augment.items()
    }


_SYMMETRIES = ("flip", "flip_vertical", "rotate90")
_HIGHEST = {"color": 1.0, "affine": 180.0}


def _scaled(name: str, arguments: Mapping[str, Any], factor: float) -> dict[str, Any]:
    scaled: dict[str, Any] = {}
    for key, value in arguments.items():
        highest = 1.0 if key == "p" else _HIGHEST.get(name, 100.0)
        whole = key == "padding" and isinstance(value, int)
        scaled[key] = round(value * factor) if whole else min(value * factor, highest)
    return scaled
