"""Prints the table of docs/onnx.md: every model is trained briefly, exported, and compared with its file.

python scripts/onnx_parity.py trains each for an epoch on the embedded digits, models of clips on digits that move to
the right, and models that read on pairs of digits. Half a minute on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from imgrec_engine import data, models, onnx
from imgrec_engine.train import Recogniser, Run, RunConfig

FRAMES = 4


def moving_digits(folder: Path) -> str:
    """An npz file of clips in which a digit moves to the right by a pixel a frame."""
    arrays = {}
    for split in ("train", "test"):
        digits = data.load("digits", split)
        images = np.stack([image for image, _ in digits])
        arrays[f"{split}_images"] = np.stack([np.roll(images, step, axis=2) for step in range(FRAMES)], axis=1)
        arrays[f"{split}_labels"] = digits.labels
    path = folder / "moving.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def pairs_of_digits(folder: Path) -> str:
    """An npz file of images in which each digit stands before the next one of its part."""
    arrays = {"classes": np.array(list("0123456789"))}
    for split in ("train", "test"):
        digits = data.load("digits", split)
        images, after = np.stack([image for image, _ in digits]), np.roll(np.arange(len(digits)), -1)
        arrays[f"{split}_images"] = np.concatenate([images, images[after]], axis=2)
        arrays[f"{split}_labels"] = np.stack([digits.labels, digits.labels[after]], axis=1)
    path = folder / "pairs.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def main() -> None:
    """Prints a row for each model."""
    print("| model | images | top-1 (string) equal | largest difference of a logit |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, pairs = moving_digits(folder), pairs_of_digits(folder)
        for model in models.names():
            strings = pairs if models.task(model) == "transcription" else "digits"
            source = clips if model.startswith("video_") else strings
            run = Run.start(folder / model, RunConfig(source, model, epochs=1))
            run.fit(lambda event, values: None)
            recogniser = Recogniser.load(folder / model)
            parity = onnx.export_recogniser(recogniser, folder / f"{model}.onnx", data.load(source, "test"))
            if parity is None:
                raise SystemExit("onnxruntime is not installed: pip install imgrec_engine[onnx]")
            print(f"| `{model}` | {parity.samples} | {parity.same_top} | {parity.difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
