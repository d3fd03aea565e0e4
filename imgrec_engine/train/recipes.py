"""Recipes: short TOML files that say how a set of images is learned."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrec_engine.errors import DataError
from imgrec_engine.train.config import RunConfig

FOLDER = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """The settings of a recipe, `RunConfig`'s fields, and what it says besides.

    With ``leave_one_group_out`` it is judged by one run for each person (or board) of the set, who is left out of that
    run's training and is its test; a single run uses the set's own test part.
    """

    name: str
    summary: str
    settings: Mapping[str, Any]
    leave_one_group_out: bool = False

    def config(self, **changes: Any) -> RunConfig:
        """The configuration of a run, some settings changed; DataError, naming the recipe, for a wrong one.

        Another model does not get the arguments of the recipe's own.

        >>> load_recipe("digits").config(seed=3).model
        'cnn_lstm'
        """
        if "model" in changes:
            changes = {"model_arguments": {}, **changes}
        try:
            return RunConfig.from_json({**self.settings, **changes})
        except (DataError, TypeError) as error:
            raise DataError(f"recipe {self.name}: {error}") from None


def recipe_names() -> list[str]:
    """The names that ``load_recipe`` knows.

    >>> "faces" in recipe_names()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of this name, or in this file, if the name ends with .toml; DataError for what is no recipe.

    >>> load_recipe("digits").summary
    "scikit-learn's 8x8 handwritten digits by a CNN read by an LSTM"
    """
    if name.endswith(".toml"):
        path = Path(name)
    elif name in recipe_names():
        path = FOLDER / f"{name}.toml"
    else:
        raise DataError(f"there is no recipe {name!r}; there are {', '.join(recipe_names())}, and files *.toml")
    try:
        read = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a recipe: {error}") from None
    summary, grouped = read.pop("summary", None), read.pop("leave_one_group_out", False)
    if not isinstance(summary, str) or not isinstance(grouped, bool) or "data" not in read:
        raise DataError(f"{path}: a recipe has a summary and data; leave_one_group_out is true or false")
    recipe = Recipe(path.stem, summary, read, grouped)
    recipe.config()  # what is wrong with it shows here
    return recipe


def as_toml(recipe: Recipe) -> str:
    """The text of a recipe's file.

    >>> print(as_toml(Recipe("mine", "my photos", {"data": "photos", "augment": {"flip": {}}})), end="")
    summary = "my photos"
    data = "photos"
    augment = { flip = {} }
    """
    extra = {"leave_one_group_out": True} if recipe.leave_one_group_out else {}
    lines = {"summary": recipe.summary, **extra, **recipe.settings}
    return "".join(f"{name} = {_as_value(value)}\n" for name, value in lines.items() if value is not None)


def _as_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        entries = ", ".join(f"{_as_key(name)} = {_as_value(entry)}" for name, entry in value.items())
        return f"{{ {entries} }}" if entries else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_value, value))}]"
    return _as_key(value, bare=False) if isinstance(value, str) else repr(value)


def _as_key(text: str, bare: bool = True) -> str:
    if bare and text.isidentifier() and text.isascii():
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
