"""What a training run says on the terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from imgrec_engine.train.run import Run


class Console:
    """Reports a run: a progress bar for each epoch on a terminal, plain lines elsewhere."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bar: Any = None
        config, model = run.config, run.recogniser.model
        size = sum(parameter.size for parameter in model.parameters())
        height, width = run.preprocessing.image_size
        print(
            f"{config.data}: {len(run.train)} images to train on, {len(run.validation)} to validate, "
            f"{len(run.test)} to test, {len(run.classes)} classes"
        )
        channels = run.preprocessing.channels
        print(f"{config.model}, {size:,} parameters, on {height}x{width}x{channels}, into {run.folder}", flush=True)
        for line in _skipped(run):
            print(line, file=sys.stderr)

    def __call__(self, kind: str, what: dict[str, Any]) -> None:
        """Takes one report of ``Run.fit``."""
        if kind == "batch":
            self._batch(**what)
        elif kind == "epoch":
            self._epoch(what)
        else:
            print(what["evaluation"].report(what["classes"]))
            print(f"checkpoints, metrics and pictures are in {self.run.folder}", flush=True)

    def _batch(self, progress: Any, seconds: float, waited: float, batches: int) -> None:
        if not sys.stderr.isatty():
            return
        if self.bar is None:
            label = f"epoch {progress.epoch + 1}/{self.run.epochs}"
            self.bar = tqdm(total=batches, initial=progress.batch - 1, desc=label, unit="batch", leave=False)
        speed = f"{progress.images / max(seconds, 1e-9):.0f}"
        shown = {
            "loss": f"{progress.loss:.4f}",
            "acc": f"{progress.accuracy:.4f}",
            "img/s": speed,
            "waiting": f"{waited:.0%}",
        }
        self.bar.set_postfix(shown)
        self.bar.update()

    def _epoch(self, record: dict[str, Any]) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        left = record["seconds"] * (self.run.epochs - record["epoch"])
        validation = f"validation {record['validation_accuracy']:.4f}  " if "validation_accuracy" in record else ""
        print(
            f"epoch {record['epoch']}/{self.run.epochs}  loss {record['train_loss']:.4f}  "
            f"accuracy {record['train_accuracy']:.4f}  {validation}"
            f"{record['images_per_second']:.0f} images/s, {record['waited']:.0%} waiting for data  {left:.0f} s left",
            flush=True,
        )


def _skipped(run: Run) -> list[str]:
    """A line about the files of an image folder that were no images."""
    skipped = run.skipped
    if not skipped:
        return []
    path, reason = skipped[0]
    return [f"imgrec: skipped {len(skipped)} files that are no usable images, first {path}: {reason}"]
