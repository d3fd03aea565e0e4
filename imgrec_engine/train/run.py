"""A training run: a folder with its configuration, its measurements, its checkpoints and its pictures."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import imgrec_engine
from imgrec_engine import checkpoint, device, models, optim, random
from imgrec_engine.data import (
    DataLoader,
    Dataset,
    ImageFolder,
    Preprocessing,
    RandomCrop,
    RandomHorizontalFlip,
    Subset,
    Transform,
    load_train_test,
    split,
)
from imgrec_engine.errors import CheckpointError, DataError
from imgrec_engine.functional import cross_entropy
from imgrec_engine.train.plots import draw_confusion, draw_curves, draw_roc
from imgrec_engine.train.recogniser import BEST, Recogniser
from imgrec_engine.train.stop import StopRequest
from imgrec_engine.train.trainer import Progress, Trainer

CONFIG, METRICS, LAST = "config.json", "metrics.jsonl", "last.safetensors"

Report = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class RunConfig:
    """All that a run depends on. Equal configurations give equal weights, bit for bit.

    ``epochs`` None stands for 10, or as many more as a small set needs for 500 steps, up to 100; ``validation`` is the
    share of each class that is kept from training to choose the best epoch (one image at least). ``precision`` is that
    of training, "float32", "bfloat16" or "float16"; weights, and what is measured with them, are float32.
    """

    data: str
    model: str = "cnn"
    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ("crop",)
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    validation: float = 0.1
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    precision: str = "float32"
    strict: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> RunConfig:
        """Reads what ``to_json`` gave."""
        size = data["image_size"]
        return cls(**{**data, "augment": tuple(data["augment"]), "image_size": tuple(size) if size else None})


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in a folder; CheckpointError if there is none that can be read."""
    try:
        described = json.loads((folder / CONFIG).read_text())
        fields = {field.name for field in dataclasses.fields(RunConfig)}
        return RunConfig.from_json({name: value for name, value in described.items() if name in fields})
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder}: not the folder of a run: it has no {CONFIG}") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: damaged: {error}") from None


AUGMENTATIONS: dict[str, Callable[[tuple[int, int]], Transform]] = {
    "crop": lambda size: RandomCrop(size, padding=max(1, min(size) // 14)),
    "flip": lambda size: RandomHorizontalFlip(),
}


class Run:
    """One run in its folder: made new by ``start`` or continued by ``resume``, then trained by ``train``."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder = folder
        self.config = config
        device.check(config.device)
        whole, self.test = load_train_test(config.data, strict=config.strict)
        train, validation = split(whole, _validation_share(whole, self.test, config), config.seed)
        self.epochs = config.epochs or min(100, max(10, -(-500 * config.batch_size // len(train))))
        self.preprocessing = Preprocessing.measure(train, config.image_size, config.channels)
        self.train, self.validation = (self.preprocessing.in_memory(part) for part in (train, validation))
        self.classes = whole.classes
        self.skipped = _skipped_files(whole)
        random.manual_seed(config.seed)
        self.recogniser = Recogniser(self._build_model(whole), whole.classes, self.preprocessing)
        self.loader = DataLoader(
            self.train,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.workers,
            transform=self.preprocessing.compose(self._augmentations()),
        )
        self.trainer = self._build_trainer()
        self.best = (-1.0, 0.0)  # validation accuracy and, where that is equal, loss with its sign turned

    @classmethod
    def start(cls, folder: Path, config: RunConfig) -> Run:
        """A new run; DataError if the folder holds something already, in which case nothing is touched."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: already exists; choose another --out, or continue the run in it with --resume")
        run = cls(folder, config)
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            **config.to_json(),
            "model_arguments": run.recogniser.model.config["arguments"],
            "versions": {"imgrec_engine": imgrec_engine.__version__, "python": platform.python_version()},
        }
        with checkpoint.replacing(folder / CONFIG) as file:
            file.write((json.dumps(described, indent=2) + "\n").encode())
        return run

    @classmethod
    def resume(cls, folder: Path, settings: Mapping[str, Any] = MappingProxyType({})) -> Run:
        """Continues a run from its last checkpoint, with the configuration that it was started with.

        DataError where ``settings``, what a person asks for once more, is not what it was started with.
        """
        config = read_config(folder)
        for name, value in settings.items():
            if value != getattr(config, name):
                raise DataError(f"{folder}: this run has {name} {getattr(config, name)!r}, not {value!r}")
        run = cls(folder, config)
        if (folder / LAST).exists():
            tensors, metadata = checkpoint.load(folder / LAST)
            try:
                run.best = tuple(metadata["best"])
                run.trainer.load_state_dict(tensors, metadata["training"])
            except (KeyError, TypeError) as error:
                raise CheckpointError(f"{folder / LAST}: not a training state: {error}") from None
        run._forget_later_epochs()
        return run

    def fit(self, report: Report) -> int:
        """Trains to the end, or until a signal asks to stop; returns the exit code: 0, 130 or 143."""
        with StopRequest() as stop:
            while self.trainer.progress.epoch < self.epochs:
                start, epoch = time.perf_counter(), self.trainer.progress.epoch

                def after_batch(progress: Progress, seconds: float) -> bool:
                    report("batch", {"progress": progress, "seconds": seconds, "batches": len(self.loader)})
                    return stop.signal is None

                progress = self.trainer.train_epoch(self.loader, after_batch)
                if self.trainer.progress.epoch == epoch:  # stopped within the epoch
                    self._save_last()
                    return stop.exit_code
                self._finish_epoch(progress, time.perf_counter() - start, report)
                if stop.signal is not None:
                    return stop.exit_code
        self._finish(report)
        return 0

    def _finish_epoch(self, progress: Progress, seconds: float, report: Report) -> None:
        validation = self.trainer.evaluate(self.recogniser.loader(self.validation))
        record = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss,
            "train_accuracy": progress.accuracy,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "learning_rate": self.trainer.optimizer.learning_rate,
            "images_per_second": progress.images / seconds,
            "seconds": seconds,
        }
        score = (validation.accuracy, -validation.loss)
        if score > self.best:
            self.best = score
            self.recogniser.save(self.folder / BEST, {"epoch": progress.epoch + 1, "validation": validation.accuracy})
        self._save_last()
        self._record(record)
        report("epoch", record)

    def _finish(self, report: Report) -> None:
        """The test part is looked at once, with the best checkpoint."""
        best = Recogniser.load(self.folder, self.config.device)
        evaluation = best.evaluate(self.test)
        self._record({f"test_{name}": value for name, value in evaluation.summary().items()})
        draw_curves(self._records(), self.folder / "curves.png")
        draw_confusion(evaluation.confusion, self.classes, self.folder / "confusion.png")
        if len(self.classes) == 2:
            draw_roc(evaluation, self.classes[1], self.folder / "roc.png")
        report("end", {"evaluation": evaluation, "classes": self.classes})

    def _build_model(self, dataset: Dataset) -> Any:
        shape = dataset.image_shape
        clips = shape is not None and len(shape) == 4
        if clips != self.config.model.startswith("video_"):
            kind = "clips" if clips else "single images"
            raise DataError(f"{self.config.data} holds {kind}, which the model {self.config.model!r} does not take")
        return models.create(
            self.config.model,
            num_classes=len(dataset.classes),
            in_channels=self.preprocessing.channels,
            image_size=self.preprocessing.image_size,
        ).to(device=self.config.device)

    def _build_trainer(self) -> Trainer:
        config, model = self.config, self.recogniser.model
        optimizer = optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        steps = len(self.loader) * self.epochs
        return Trainer(
            model,
            optimizer,
            lambda logits, labels: cross_entropy(logits, labels, label_smoothing=config.label_smoothing),
            optim.OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=steps),
            max_grad_norm=1.0,
            precision=config.precision,
        )

    def _augmentations(self) -> list[Transform]:
        unknown = [name for name in self.config.augment if name not in AUGMENTATIONS]
        if unknown:
            raise DataError(f"augment: {unknown[0]!r} is not known; there are {', '.join(AUGMENTATIONS)}")
        return [AUGMENTATIONS[name](self.preprocessing.image_size) for name in self.config.augment]

    def _save_last(self) -> None:
        tensors, settings = self.trainer.state_dict()
        checkpoint.save(self.folder / LAST, tensors, {"training": settings, "best": self.best})

    def _record(self, record: dict[str, Any]) -> None:
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _records(self) -> list[dict[str, Any]]:
        path = self.folder / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _forget_later_epochs(self) -> None:
        """Drops what was recorded after the checkpoint, so that no epoch is told twice."""
        kept = [record for record in self._records() if record.get("epoch", 1 << 62) <= self.trainer.progress.epoch]
        with checkpoint.replacing(self.folder / METRICS) as file:
            file.writelines((json.dumps(record) + "\n").encode() for record in kept)


def _validation_share(train: Dataset, test: Dataset, config: RunConfig) -> float:
    """The share asked for, or what gives one image of the smallest class; DataError if there is too little to share."""
    if len(train.classes) < 2:
        raise DataError(f"{config.data}: only one class; there is nothing to tell apart")
    smallest = int(np.bincount(train.labels, minlength=len(train.classes)).min())
    if smallest < 2 or not len(test):
        raise DataError(
            f"{config.data}: too few images: {len(train)} to train on and {len(test)} to test for "
            f"{len(train.classes)} classes; 4 images of each class are the least"
        )
    return max(config.validation, 1 / smallest)


def _skipped_files(dataset: Dataset) -> list[tuple[Path, str]]:
    """What an image folder below this data set left out."""
    while not isinstance(dataset, ImageFolder):
        if not isinstance(dataset, Subset):
            return []
        dataset = dataset.dataset
    return dataset.skipped
