"""The command line: imgrec train | evaluate | predict | info | models | datasets."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from imgrec_engine import info
from imgrec_engine.errors import DataError, ImgrecError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input (one line on stderr), 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # giant images are refused by our own limit
    try:
        return int(options.command(options))
    except ImgrecError as error:
        print(f"imgrec: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # what reads our output has enough; closing keeps Python from complaining at exit
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="imgrec", description="Train and use image recognisers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a model on a data set")
    train.add_argument(
        "data", nargs="?", help="a folder with a folder of images per class, an IDX or npz file, or a name"
    )
    train.add_argument("--model", help="see `imgrec models` (default cnn, for clips video_lstm)")
    train.add_argument("--out", type=Path, help="the run's folder (default runs/DATA-MODEL)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    train.add_argument("--epochs", type=_positive, default=10)
    train.add_argument("--batch-size", type=_positive, default=64)
    train.add_argument("--learning-rate", type=float, default=2e-3)
    train.add_argument("--weight-decay", type=float, default=0.01)
    train.add_argument("--label-smoothing", type=float, default=0.0)
    train.add_argument("--augment", default="crop", help="crop, flip, both with a comma, or none (default crop)")
    train.add_argument("--image-size", type=_size, help="N or HxW (default: the images' own, 64 where it varies)")
    train.add_argument("--grey", action="store_true", help="turn colour images to grey")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--workers", type=int, default=0, help="threads that prepare batches ahead")
    train.add_argument("--strict", action="store_true", help="stop at a file that is no image")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="accuracy per class and confusion matrix")
    evaluate.add_argument("run", type=Path)
    evaluate.add_argument("data", nargs="?", help="default: what the run was trained on")
    evaluate.add_argument("--split", default="test")
    evaluate.set_defaults(command=_evaluate)

    predict = commands.add_parser("predict", help="say what photos show")
    predict.add_argument("run", type=Path)
    predict.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    predict.add_argument("--top", type=_positive, default=1)
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--strict", action="store_true", help="stop at a file that is no image")
    predict.set_defaults(command=_predict)

    for name, help_, command in (
        ("info", "what this build has", _info),
        ("models", "the models that can be trained", _models),
        ("datasets", "the data sets that are known by name", _datasets),
    ):
        commands.add_parser(name, help=help_).set_defaults(command=command)
    return parser


def _train(options: argparse.Namespace) -> int:
    from imgrec_engine.train import Run
    from imgrec_engine.train.console import Console

    if options.resume is not None:
        run = Run.resume(options.resume)
    elif options.data is None:
        raise DataError("train: DATA is missing: name a folder, a file or a data set (`imgrec datasets` lists them)")
    else:
        run = Run.start(*_new_run(options))
    return run.fit(Console(run))


def _new_run(options: argparse.Namespace) -> tuple[Path, Any]:
    from imgrec_engine.data import load
    from imgrec_engine.train import RunConfig

    model = options.model
    if model is None:
        shape = load(options.data, strict=options.strict).image_shape
        model = "video_lstm" if shape is not None and len(shape) == 4 else "cnn"
    config = RunConfig(
        data=options.data,
        model=model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        augment=() if options.augment == "none" else tuple(options.augment.split(",")),
        image_size=options.image_size,
        channels=1 if options.grey else None,
        seed=options.seed,
        workers=options.workers,
        strict=options.strict,
    )
    return options.out or Path("runs") / f"{Path(options.data).name or 'data'}-{model}", config


def _evaluate(options: argparse.Namespace) -> int:
    from imgrec_engine.data import load
    from imgrec_engine.train import Recogniser
    from imgrec_engine.train.run import read_config

    recogniser = Recogniser.load(options.run)
    data = options.data or read_config(options.run).data
    print(recogniser.evaluate(load(data, options.split)).report(recogniser.classes))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from imgrec_engine.data import read_image
    from imgrec_engine.train import Recogniser

    recogniser = Recogniser.load(options.run)
    recognised = skipped = 0
    for path in _files(options.paths):
        try:
            prediction = recogniser.predict([read_image(path)])[0]
        except DataError as error:
            if options.strict:
                raise
            print(f"imgrec: skipped: {error}", file=sys.stderr)
            skipped += 1
            continue
        recognised += 1
        pairs = list(zip(prediction.labels, prediction.scores, strict=True))[: options.top]
        if options.json:
            top = [{"label": label, "score": score} for label, score in pairs]
            print(json.dumps({"path": str(path), **top[0], "top": top}), flush=True)
        else:
            print(f"{path}: " + ", ".join(f"{label} {score:.4f}" for label, score in pairs), flush=True)
    if not recognised:
        raise DataError(f"predict: no image could be read ({skipped} skipped)")
    return 0


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files named, and all files below the folders named."""
    from imgrec_engine.data.folder import visible_files

    for path in paths:
        if path.is_dir():
            yield from visible_files(path)
        elif path.exists():
            yield path
        else:
            raise DataError(f"{path}: there is no such file or folder")


def _info(options: argparse.Namespace) -> int:
    print(info.report())
    return 0


def _models(options: argparse.Namespace) -> int:
    from imgrec_engine import models

    for name, summary in models.summaries():
        print(f"{name:<14} {summary}")
    return 0


def _datasets(options: argparse.Namespace) -> int:
    from imgrec_engine.data import embedded, shared

    for name in embedded.SETS:
        print(f"{name:<15} inside scikit-learn or scikit-image")
    for name in shared.SETS:
        try:
            print(f"{name:<15} {shared.location(name)}")
        except DataError as error:
            print(f"{name:<15} not here: {error}")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither N nor HxW") from None
    if not all(8 <= length <= 4096 for length in size):
        raise argparse.ArgumentTypeError(f"{text!r}: 8 to 4096 pixels are possible")
    return size


if __name__ == "__main__":
    sys.exit(main())
