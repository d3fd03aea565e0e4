"""What a run is made from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrec_engine.errors import CheckpointError, DataError
from imgrec_engine.train.symmetries import SYMMETRIES

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on. Equal configurations give equal weights, bit for bit.

    DataError where a value is of the wrong kind, naming it.

    Attributes:
        data: a name, folder or file for `ie.data.load`.
        model: a name for `ie.models.create`, and ``model_arguments`` what it takes beyond classes, channels and size.
        epochs: None stands for 10, or as many more as a small set needs for 500 steps, up to 100.
        batch_size: images of one forward pass; ``accumulate`` of these make one step of the optimiser.
        learning_rate: the peak, of AdamW. The rate rises to it in the first ``warmup`` of all steps and then falls,
            both along half a cosine (`optim.OneCycleLR`).
        average: the decay of the weights' moving average, which is what is evaluated and kept; 0 for none.
        class_weights: whether all classes get the same part in the loss, however many images they have.
        augment: what `train.augmentations` knows, by name, with its arguments.
        symmetries: "flip", "flip_vertical" and "rotate90", as far as images mean the same that way round; answers are
            means over all the ways that follow, in validation, test and prediction.
        image_size: (height, width); None is the images' own, or 64 x 64 where these vary.
        channels: 1 for grey, 3 for colour; None is the images' own.
        validation: the share of the training part that is kept back to choose the best epoch, of every class or, where
            it is known from whom or what the images are, of those. A set's own "val" part is taken instead where there
            is one. With 0, all is trained on and the last epoch is kept.
        patience: training ends when the validation has not become better for as many epochs; None for never.
        left_out: the group (the person, the board) that is the test part, while all others are trained on; None keeps
            the set's own test part.
        merge: classes that the test reports as one besides: {"no action": ("sit", "lie", "stand")}.
        workers: threads that prepare batches ahead.
        precision: of the forward pass, "float32", "bfloat16" or "float16"; weights, and what is measured, are float32.
        capture: whether steps on a GPU are repeated as graphs, which changes no bit.
        strict: whether a file that is no image ends the run.

    """

    data: str
    model: str = "cnn"
    model_arguments: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup: float = 0.3
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    average: float = 0.0
    class_weights: bool = False
    augment: dict[str, dict[str, Any]] = field(default_factory=lambda: {"crop": {}})
    symmetries: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    validation: float = 0.1
    patience: int | None = None
    left_out: int | None = None
    merge: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seed: int = 0
    workers: int = 1
    device: str = "cpu"
    precision: str = "float32"
    capture: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        for name, (expected, accepts) in _EXPECTED.items():
            value = getattr(self, name)
            if not accepts(value):
                raise DataError(f"{name} is {value!r}, expected {expected}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """Reads what ``to_json`` gave, or as much of it as a recipe says; DataError for a name that is no field."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in data if name not in known]
        if unknown:
            raise DataError(f"{unknown[0]!r} is no setting of a run; there are {', '.join(known)}")
        values = dict(data)
        if isinstance(size := values.get("image_size"), list):
            values["image_size"] = tuple(size)
        if isinstance(symmetries := values.get("symmetries"), list):
            values["symmetries"] = tuple(symmetries)
        if isinstance(merge := values.get("merge"), dict):
            values["merge"] = {name: tuple(parts) for name, parts in merge.items()}
        return cls(**values)


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in a folder; CheckpointError if there is none that can be read."""
    try:
        described = json.loads((folder / CONFIG).read_text())
        return RunConfig.from_json({name: value for name, value in described.items() if name != "versions"})
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder}: not the folder of a run: it has no {CONFIG}") from None
    except (json.JSONDecodeError, DataError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: damaged, or of another version: {error}") from None


Check = tuple[str, Callable[[Any], bool]]


def _whole(low: int, optional: bool = False) -> Check:
    def accepts(value: Any) -> bool:
        return (optional and value is None) or (type(value) is int and low <= value < 2**63)

    return f"a whole number of {low} or more", accepts


def _number(low: float, high: float, below: bool = False) -> Check:
    def accepts(value: Any) -> bool:
        return type(value) in (int, float) and low <= value <= high and not (below and value == high)

    above = f"{low:g} or more" if high == _ANY else f"{low:g} to {'below ' * below}{high:g}"
    return f"a number of {above}", accepts


def _is_size(value: Any) -> bool:
    return value is None or (
        isinstance(value, tuple) and len(value) == 2 and all(type(side) is int and 8 <= side <= 4096 for side in value)
    )


def _are_symmetries(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(name, str) and name in SYMMETRIES and value.count(name) == 1 for name in value
    )


def _is_table_of(kind: type, value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and isinstance(of, kind) for name, of in value.items())


_ANY = 1e30
_FLAG: Check = ("true or false", lambda value: isinstance(value, bool))
_TEXT: Check = ("a text", lambda value: isinstance(value, str))
_EXPECTED: dict[str, Check] = {
    **dict.fromkeys(("data", "model", "device"), _TEXT),
    **dict.fromkeys(("class_weights", "capture", "strict"), _FLAG),
    **dict.fromkeys(("learning_rate", "weight_decay"), _number(0, _ANY)),
    **dict.fromkeys(("warmup", "label_smoothing"), _number(0, 1)),
    **dict.fromkeys(("average", "validation"), _number(0, 1, below=True)),
    **dict.fromkeys(("batch_size", "accumulate"), _whole(1)),
    **dict.fromkeys(("seed", "workers"), _whole(0)),
    **dict.fromkeys(("epochs", "patience"), _whole(1, optional=True)),
    "left_out": _whole(0, optional=True),
    "channels": ("1 or 3", lambda value: value is None or (type(value) is int and value in (1, 3))),
    "image_size": ("a height and a width of 8 to 4096 pixels", _is_size),
    "precision": ("float32, bfloat16 or float16", lambda value: value in ("float32", "bfloat16", "float16")),
    "model_arguments": ("a table of arguments", lambda value: isinstance(value, dict)),
    "augment": ("a table of names with their arguments", lambda value: _is_table_of(dict, value)),
    "symmetries": (f"a tuple of some of {', '.join(SYMMETRIES)}, each once", _are_symmetries),
    "merge": ("a table of new classes with lists of old ones", lambda value: _is_table_of(tuple, value)),
}
