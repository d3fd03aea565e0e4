"""The commands that train: imgrec train | reproduce | tune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec_engine.argument_types import amount, names, natural, place, positive, share, size
from imgrec_engine.errors import DataError

if TYPE_CHECKING:
    from imgrec_engine.train import Run
    from imgrec_engine.train.run import Report


def add_commands(commands: Any) -> None:
    """Adds the three to the parser's commands."""
    train = commands.add_parser(
        "train", help="train a model on a data set", argument_default=argparse.SUPPRESS
    )  # what is not given keeps the recipe's or RunConfig's default
    _add_train_arguments(train)
    train.set_defaults(command=_train)

    reproduce = commands.add_parser("reproduce", help="run recipes with several seeds; the table of their results")
    reproduce.add_argument("recipes", nargs="*", metavar="NAME", help="see `imgrec recipes` (default: all)")
    reproduce.add_argument("--seeds", type=positive, default=3, help="default 3")
    reproduce.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="default runs/reproduce")
    reproduce.set_defaults(command=_reproduce)

    tune = commands.add_parser("tune", help="search a recipe's settings with Optuna, judged on the validation part")
    tune.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or a file of that form")
    tune.add_argument("--trials", type=positive, required=True, help="how many there are to be in all")
    tune.add_argument("--out", type=Path, help="the study's folder (default runs/tune-RECIPE); what lies there goes on")
    tune.set_defaults(command=_tune)


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    what = "a folder with a folder of images per class, an IDX or npz file, or a name"
    train.add_argument("data", nargs="?", type=place, help=what)
    train.add_argument("--recipe", help="see `imgrec recipes`, or a TOML file; what is given besides goes first")
    train.add_argument("--data", dest="data", type=place, metavar="PLACE", help="in place of the recipe's data set")
    train.add_argument("--model", help="see `imgrec models` (default: by the images)")
    train.add_argument("--out", type=Path, help="the run's folder (default runs/DATA-MODEL or runs/RECIPE)")
    train.add_argument(
        "--resume", type=Path, nargs="?", const=None, metavar="RUN", help="continue the run in this folder, or in --out"
    )
    train.add_argument("--epochs", type=positive, help="default 10, more for small sets")
    train.add_argument("--batch-size", type=positive, help="default: by the number of images, at most 64")
    train.add_argument("--accumulate", type=positive, help="batches that make one step (default 1)")
    train.add_argument("--learning-rate", type=amount, help="default 0.002")
    train.add_argument("--warmup", type=share, help="the share of all steps in which the rate rises (default 0.3)")
    train.add_argument("--weight-decay", type=amount, help="default 0.01")
    train.add_argument("--label-smoothing", type=share, help="default: by the number of images")
    train.add_argument("--average", type=share, help="decay of the weights' moving average (0: none)")
    train.add_argument("--class-weights", action="store_true", help="all classes get the same part in the loss")
    train.add_argument(
        "--augment", type=names, help="some of crop,flip,affine,color,... or none (default: by the images)"
    )
    train.add_argument("--image-size", type=size, help="N or HxW (default: the images' own, or what is quick enough)")
    train.add_argument("--grey", dest="channels", action="store_const", const=1, help="turn colour images to grey")
    train.add_argument("--validation", type=share, help="the share kept back to choose the best epoch")
    train.add_argument("--patience", type=positive, help="end after so many epochs without progress")
    train.add_argument("--seed", type=natural, help="default 0")
    train.add_argument("--workers", type=natural, help="threads that prepare batches ahead (default 1)")
    train.add_argument("--device", help="see `imgrec info` (default cpu)")
    train.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), help="of the forward pass (default float32)"
    )
    train.add_argument("--capture", action="store_true", help="repeat steps on a GPU as graphs (docs/cuda.md)")
    train.add_argument("--strict", action="store_true", help="stop at a file that is no image")


def _train(options: argparse.Namespace) -> int:
    from imgrec_engine.train import Run
    from imgrec_engine.train.augmentations import standard
    from imgrec_engine.train.recipes import load_recipe

    own = ("command", "out", "resume", "recipe")
    settings = {name: value for name, value in vars(options).items() if name not in own}
    if "augment" in settings:
        settings["augment"] = standard(settings["augment"])
    recipe = load_recipe(options.recipe) if hasattr(options, "recipe") else None
    if recipe is not None:
        config = recipe.config(**settings)
        settings = {name: getattr(config, name) for name in {*recipe.settings, *settings}}
    out = getattr(options, "out", None)
    if hasattr(options, "resume"):
        folder = options.resume or out
        if folder is None:
            raise DataError("train: --resume needs a run: --resume RUN, or --out RUN --resume")
        run = Run.resume(folder, settings)
    elif "data" not in settings:
        raise DataError("train: DATA is missing: name a folder, a file or a data set (`imgrec datasets` lists them)")
    elif recipe is not None:
        run = Run.start(out or Path("runs") / recipe.name, config)
    else:
        run = _start(out, settings)
    return run.fit(_console(run))


def _start(out: Path | None, settings: dict[str, Any]) -> Run:
    """A new run; what was not asked for is chosen by the images, and said."""
    from imgrec_engine.data import load
    from imgrec_engine.train import Run, RunConfig
    from imgrec_engine.train.defaults import choose

    data = settings["data"]
    choices = choose(load(data, strict=settings.get("strict", False)), settings)
    settings |= {choice.name: choice.value for choice in choices}
    folder = out or Path("runs") / f"{Path(data).name or 'data'}-{settings['model']}"
    run = Run.start(folder, RunConfig(**settings))
    for choice in choices:
        print(f"chosen: {choice}")
    return run


def _console(run: Run) -> Report:
    from imgrec_engine.train.console import Console

    return Console(run)


def _reproduce(options: argparse.Namespace) -> int:
    from imgrec_engine.train.recipes import load_recipe, recipe_names
    from imgrec_engine.train.reproduce import as_table, reproduce

    recipes = [load_recipe(name) for name in options.recipes or recipe_names()]
    code, results = reproduce(recipes, options.seeds, options.out, _console)
    print(as_table(results), end="")
    return code


def _tune(options: argparse.Namespace) -> int:
    from imgrec_engine.train.recipes import load_recipe
    from imgrec_engine.train.tuning import BEST_RECIPE, tune

    recipe = load_recipe(options.recipe)
    folder = options.out or Path("runs") / f"tune-{recipe.name}"
    code = tune(recipe, options.trials, folder, _console)
    best = folder / BEST_RECIPE
    if best.exists():
        print(f"{best}:\n{best.read_text('utf-8')}", end="")
    return code
