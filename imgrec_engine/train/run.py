"""A training run: a folder with its configuration, its measurements, its checkpoints and its pictures."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imgrec_engine
from imgrec_engine import checkpoint, device, models, optim, random
from imgrec_engine.data import DataLoader, Dataset, Preprocessing
from imgrec_engine.errors import CheckpointError, DataError
from imgrec_engine.train import augmentations
from imgrec_engine.train.config import CONFIG, RunConfig, read_config
from imgrec_engine.train.events import Measurements
from imgrec_engine.train.parts import divide, skipped_files
from imgrec_engine.train.plots import draw_curves
from imgrec_engine.train.recogniser import BEST, Recogniser
from imgrec_engine.train.stop import StopRequest
from imgrec_engine.train.trainer import Progress, Trainer

LAST = "last.safetensors"

Report = Callable[[str, dict[str, Any]], None]


class Run:
    """One run in its folder: made new by ``start`` or continued by ``resume``, then trained and judged by ``fit``."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder = folder
        self.config = config
        device.check(config.device)
        parts = divide(config)
        self.skipped = skipped_files(parts.train)
        self.classes = parts.train.classes
        self.preprocessing = Preprocessing.measure(parts.train, config.image_size, config.channels)
        self.train, self.validation = (
            self.preprocessing.in_memory(part) if len(part) else part for part in (parts.train, parts.validation)
        )
        self.test = parts.test
        self.epochs = config.epochs or min(100, max(10, -(-500 * config.batch_size // len(self.train))))
        random.manual_seed(config.seed)
        self.recogniser = Recogniser(
            self._build_model(parts.train), self.classes, self.preprocessing, config.symmetries
        )
        self.recogniser.task.check(config, parts.train, self.recogniser.model)
        self.merged = merged_classes(self.classes, config.merge)
        self.loader = self._build_loader()
        self.trainer = self._build_trainer()
        self.measurements = Measurements(folder)
        self.best = (-1.0, 0.0)  # validation accuracy and, where that is equal, loss with its sign turned
        self.best_epoch = 0

    @classmethod
    def start(cls, folder: Path, config: RunConfig) -> Run:
        """A new run; DataError if the folder holds something already, in which case nothing is touched."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: already exists; choose another --out, or continue the run in it with --resume")
        run = cls(folder, config)
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            **config.to_json(),
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
        run = cls(folder, cls.check_settings(folder, settings))
        checkpoint.clear_parts(folder)
        if (folder / LAST).exists():
            tensors, metadata = checkpoint.load(folder / LAST)
            try:
                run.best, run.best_epoch = tuple(metadata["best"]), metadata["best_epoch"]
                run.trainer.load_state_dict(tensors, metadata["training"])
            except (KeyError, TypeError) as error:
                raise CheckpointError(f"{folder / LAST}: not a training state: {error}") from None
        run.measurements.keep(run.trainer.progress.epoch)
        return run

    @staticmethod
    def check_settings(folder: Path, settings: Mapping[str, Any]) -> RunConfig:
        """The configuration of the run in a folder; DataError where ``settings`` are not what it was started with."""
        config = read_config(folder)
        for name, value in settings.items():
            if value != getattr(config, name):
                raise DataError(f"{folder}: this run has {name} {getattr(config, name)!r}, not {value!r}")
        return config

    def fit(self, report: Report) -> int:
        """Trains and tests, or trains until a signal asks to stop; returns the exit code: 0, 130 or 143."""
        code = self.learn(report)
        if code == 0:
            self._judge(report)
        self.measurements.close()
        return code

    def learn(self, report: Report) -> int:
        """Trains without looking at the test part, and returns as ``fit`` does."""
        with StopRequest() as stop:
            while not self.is_trained:
                start, epoch = time.perf_counter(), self.trainer.progress.epoch

                def after_batch(progress: Progress, seconds: float) -> bool:
                    waited = self.trainer.waited / max(seconds, 1e-9)
                    told = {"progress": progress, "seconds": seconds, "waited": waited, "batches": len(self.loader)}
                    report("batch", told)
                    return stop.signal is None

                progress = self.trainer.train_epoch(self.loader, after_batch)
                if self.trainer.progress.epoch == epoch:  # stopped within the epoch
                    self._save_last()
                    return stop.exit_code
                self._finish_epoch(progress, time.perf_counter() - start, report)
                if stop.signal is not None:
                    return stop.exit_code
        return 0

    @property
    def is_trained(self) -> bool:
        """Whether all epochs are done, or as many without progress as patience allows."""
        done, patience = self.trainer.progress.epoch, self.config.patience
        return done >= self.epochs or (patience is not None and done - self.best_epoch >= patience)

    def _finish_epoch(self, progress: Progress, seconds: float, report: Report) -> None:
        epoch = progress.epoch + 1
        record = {
            "epoch": epoch,
            "train_loss": progress.loss,
            "train_accuracy": progress.accuracy,
            "learning_rate": self.trainer.optimizer.learning_rate,
            "images_per_second": progress.images / seconds,
            "waited": self.trainer.waited / seconds,
            "seconds": seconds,
        }
        score = self.best
        if len(self.validation):
            start = time.perf_counter()
            with self.trainer.averaged():
                validation = self.recogniser.evaluate(self.validation)
            record |= {"validation_loss": validation.loss, "validation_accuracy": validation.accuracy}
            record["seconds"] += time.perf_counter() - start
            score = (validation.accuracy, -validation.loss)
        if score > self.best or not len(self.validation):
            self.best, self.best_epoch = score, epoch
            with self.trainer.averaged():
                self.recogniser.save(
                    self.folder / BEST, {"epoch": epoch, "validation": record.get("validation_accuracy")}
                )
        self._save_last()
        self.measurements.add(record, epoch)
        report("epoch", record)

    def _judge(self, report: Report) -> None:
        """The test part is looked at once, with the best checkpoint."""
        best = Recogniser.load(self.folder, self.config.device)
        evaluation = best.evaluate(self.test)
        summary = evaluation.summary() | {"best_epoch": self.best_epoch}
        if self.config.merge:
            merged = evaluation.merged(self.merged).summary()
            summary |= {f"merged_{name}": merged[name] for name in ("accuracy", "roc_auc") if name in merged}
        self.measurements.add({f"test_{name}": value for name, value in summary.items()}, self.trainer.progress.epoch)
        draw_curves(self.measurements.read(), self.folder / "curves.png")
        best.task.draw(evaluation, self.classes, self.folder)
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
            **self.config.model_arguments,
        ).to(device=self.config.device)

    def _build_loader(self) -> DataLoader:
        config = self.config
        transforms, mixing = augmentations.build(config.augment, self.preprocessing.image_size)
        return DataLoader(
            self.train,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.workers,
            continuous=True,
            transform=self.preprocessing.compose(transforms),
            mixing=mixing,
        )

    def _build_trainer(self) -> Trainer:
        config, model = self.config, self.recogniser.model
        optimizer = optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        steps = -(-len(self.loader) // config.accumulate) * self.epochs
        return Trainer(
            model,
            optimizer,
            self.recogniser.task.training_loss(config, self.train),
            optim.OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=steps, pct_start=config.warmup),
            max_grad_norm=1.0,
            precision=config.precision,
            capture=config.capture,
            accumulate=config.accumulate,
            average=optim.ExponentialMovingAverage(model, config.average) if config.average else None,
        )

    def _save_last(self) -> None:
        tensors, settings = self.trainer.state_dict()
        metadata = {"training": settings, "best": self.best, "best_epoch": self.best_epoch}
        checkpoint.save(self.folder / LAST, tensors, metadata)


def merged_classes(classes: Sequence[str], merge: Mapping[str, Sequence[str]]) -> list[int]:
    """The number of each class where some are merged: new classes follow those that stay.

    >>> merged_classes(["walk", "sit", "lie"], {"no action": ["sit", "lie"]})
    [0, 1, 1]
    """
    became = {old: new for new, parts in merge.items() for old in parts}
    unknown = [old for old in became if old not in classes]
    if unknown:
        raise DataError(f"merge: there is no class {unknown[0]!r}; there are {', '.join(classes)}")
    names = [name for name in classes if name not in became] + list(merge)
    return [names.index(became.get(name, name)) for name in classes]
