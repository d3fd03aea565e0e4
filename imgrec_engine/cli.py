"""The command line: imgrec train | reproduce | tune | evaluate | predict | export | inspect | info | models | ..."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from imgrec_engine import cli_train, info
from imgrec_engine.argument_types import positive
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
    except OSError as error:  # a folder that cannot be made or written, a full disk
        print(f"imgrec: {error.filename or 'the system'}: {error.strerror}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="imgrec", description="Train and use image recognisers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cli_train.add_commands(commands)

    evaluate = commands.add_parser("evaluate", help="accuracy per class and confusion matrix")
    evaluate.add_argument("run", type=Path)
    evaluate.add_argument("data", nargs="?", help="default: what the run was trained on")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--device", default="cpu")
    evaluate.set_defaults(command=_evaluate)

    predict = commands.add_parser("predict", help="say what photos show")
    predict.add_argument("run", type=Path)
    predict.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    predict.add_argument("--top", type=positive, default=1)
    predict.add_argument("--device", default="cpu")
    predict.add_argument(
        "--explain", type=Path, nargs="?", const=Path("explained"), metavar="DIR",
        help="draw what each prediction rests on as a PNG in this folder (default explained)",
    )  # fmt: skip
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--strict", action="store_true", help="stop at a file that is no image")
    predict.set_defaults(command=_predict)

    export = commands.add_parser("export", help="write a run's model as an ONNX file, compared on its test images")
    export.add_argument("run", type=Path)
    export.add_argument("file", type=Path, metavar="FILE", help="model.onnx; replaced if it is there")
    export.add_argument("data", nargs="?", help="default: what the run was trained on")
    export.set_defaults(command=_export)

    _add_inspect(commands)
    for name, help_, command in (
        ("info", "what this build has", _info),
        ("models", "the models that can be trained", _models),
        ("datasets", "the data sets that are known by name", _datasets),
        ("recipes", "the recipes that training can follow", _recipes),
    ):
        commands.add_parser(name, help=help_).set_defaults(command=command)
    return parser


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser("inspect", help="what each line of an op's CUDA kernels costs, by the simulator")
    inspect.add_argument("op", metavar="OP", help="conv2d, relu, lstm, ... (another name lists them)")
    inspect.add_argument(
        "--shape", nargs="+", default=[], metavar="SHAPE", help="8,32,32,16 or x=8,32,32,16, one for each tensor"
    )
    inspect.add_argument("--dtype", default="float32", help="float32 (default), float64, float16 or bfloat16")
    inspect.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="other arguments of the op"
    )
    inspect.add_argument("--html", type=Path, metavar="FILE", help="write a page with heat colours instead")
    inspect.set_defaults(command=_inspect)


def _evaluate(options: argparse.Namespace) -> int:
    from imgrec_engine.data import load
    from imgrec_engine.train import Recogniser
    from imgrec_engine.train.config import read_config

    recogniser = Recogniser.load(options.run, options.device)
    data = options.data or read_config(options.run).data
    print(recogniser.evaluate(load(data, options.split)).report(recogniser.classes))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from imgrec_engine.data import read_image
    from imgrec_engine.train import Recogniser

    recogniser = Recogniser.load(options.run, options.device)
    recognised, skipped = 0, list[str]()
    files = list(_files(options.paths))
    pictures = _pictures(files, options.explain) if options.explain else {}
    for path in files:
        try:
            image = read_image(path)
            prediction = recogniser.predict([image])[0]
        except DataError as error:
            if options.strict:
                raise
            skipped.append(str(error))
            continue
        recognised += 1
        pairs = list(zip(prediction.labels, prediction.scores, strict=True))[: options.top]
        if picture := pictures.get(path):
            recogniser.explain(image).draw(picture)
        if options.json:
            top = [{"label": label, "score": score} for label, score in pairs]
            explained = {"explained": str(picture)} if picture else {}
            print(json.dumps({"path": str(path), **top[0], "top": top, **explained}), flush=True)
        else:
            drawn = f" ({picture})" if picture else ""
            print(f"{path}: " + ", ".join(f"{label} {score:.4f}" for label, score in pairs) + drawn, flush=True)
    if not recognised:
        raise DataError(skipped[0] if len(skipped) == 1 else f"predict: no image in {_join(options.paths)}")
    if skipped:
        print(f"imgrec: skipped {len(skipped)} files that are no usable images, first {skipped[0]}", file=sys.stderr)
    return 0


def _pictures(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the picture of each file goes: below the folder as the file is below what holds all the files."""
    parents = [file.parent.resolve() for file in files]
    root = os.path.commonpath(parents or [Path()])
    # a.jpg and a.png may be beside each other, so a picture's name has the file's whole name in it.
    return {
        file: folder / parent.relative_to(root) / f"{file.name}.png"
        for file, parent in zip(files, parents, strict=True)
    }


def _export(options: argparse.Namespace) -> int:
    from imgrec_engine import onnx
    from imgrec_engine.data import load
    from imgrec_engine.train import Recogniser
    from imgrec_engine.train.config import read_config

    recogniser = Recogniser.load(options.run)
    parity = onnx.export_recogniser(
        recogniser, options.file, load(options.data or read_config(options.run).data, "test")
    )
    found = parity or "not verified: onnxruntime is not installed (pip install imgrec_engine[onnx])"
    print(f"{options.file}: {recogniser.model.config['name']}, {found}")
    return 0


def _join(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


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


def _inspect(options: argparse.Namespace) -> int:
    from imgrec_engine.inspection import as_page, as_text, inspect_op, read_options, read_shapes

    found = inspect_op(options.op, read_shapes(options.shape), options.dtype, read_options(options.option))
    if options.html is None:
        print(as_text(found), end="")
    else:
        options.html.write_text(as_page(found), encoding="utf-8")
        print(options.html)
    return 0


def _info(options: argparse.Namespace) -> int:
    print(info.report())
    return 0


def _models(options: argparse.Namespace) -> int:
    from imgrec_engine import models

    for name, summary in models.summaries():
        print(f"{name:<14} {summary}")
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from imgrec_engine.train.recipes import load_recipe, recipe_names

    for name in recipe_names():
        print(f"{name:<17} {load_recipe(name).summary}")
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


if __name__ == "__main__":
    sys.exit(main())
