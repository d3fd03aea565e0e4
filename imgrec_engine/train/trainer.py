"""The training loop."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imgrec_engine import graphs, random
from imgrec_engine.data import DataLoader
from imgrec_engine.errors import CheckpointError
from imgrec_engine.mixed_precision import autocast
from imgrec_engine.nn import Module
from imgrec_engine.optim import ExponentialMovingAverage, GradScaler, Optimizer, clip_grad_norm_
from imgrec_engine.optim.schedulers import Scheduler
from imgrec_engine.tensor import Tensor
from imgrec_engine.train.evaluation import device_of, evaluate
from imgrec_engine.train.prefetch import Batch, prefetch
from imgrec_engine.train.tasks import Loss, task_of


@dataclass
class Progress:
    """How far an epoch has come: what a progress bar shows and what a checkpoint in mid-epoch remembers."""

    epoch: int = 0
    batch: int = 0
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    @property
    def loss(self) -> float:
        """The mean loss of the images seen in this epoch."""
        return self.loss_sum / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        """The share of the images seen in this epoch that were recognised."""
        return self.correct / max(self.images, 1)


class Trainer:
    """Trains a model on batches of (images, labels), one epoch at a time, on the device where the model is.

    ``loss`` is by default that of the model's task: cross entropy, or CTC's for models that read strings.
    ``precision`` "bfloat16" or "float16" runs forward and loss within `autocast`, and scales the loss for float16.
    ``accumulate`` batches together make one step of the optimiser, by the mean of their losses; so do those that are
    left at an epoch's end. ``scheduler`` steps after every step of the optimiser, and ``average`` takes the weights in:
    evaluation is with the averaged weights. With ``capture``, a step on a GPU is repeated as a graph by `ie.capture`:
    to the last bit the same training, for models and losses that ask for no values on the way. ``state_dict`` holds all
    that the next batch depends on, so that training that is stopped between two batches and continued from its state
    gives the same weights, bit for bit, also in the midst of an accumulation.

    >>> import imgrec_engine as ie
    >>> train, test = ie.data.load_train_test("digits")
    >>> ie.manual_seed(0)
    >>> model = ie.models.create("cnn", num_classes=10, in_channels=1, image_size=8)
    >>> trainer = Trainer(model, ie.optim.AdamW(model.parameters(), lr=3e-3))
    >>> for epoch in range(2):
    ...     progress = trainer.train_epoch(ie.data.DataLoader(train, batch_size=64, shuffle=True))
    >>> trainer.evaluate(ie.data.DataLoader(test, batch_size=256)).accuracy > 0.8
    True
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Loss | None = None,
        scheduler: Scheduler | None = None,
        max_grad_norm: float | None = None,
        precision: str = "float32",
        capture: bool = False,
        accumulate: int = 1,
        average: ExponentialMovingAverage | None = None,
    ) -> None:
        if accumulate < 1 or (capture and accumulate > 1):
            expected = "1 with capture" if capture else "1 or more"
            raise ValueError(f"Trainer: accumulate is {accumulate}, expected {expected}")
        self.model = model
        self.optimizer = optimizer
        self.task = task_of(model)
        self.loss = loss or self.task.loss
        self.scheduler = scheduler
        self.max_grad_norm = max_grad_norm
        self.autocast = contextlib.nullcontext() if precision == "float32" else autocast(precision)
        self.scaler = GradScaler(enabled=precision == "float16")
        self.step = graphs.capture(self._step) if capture else self._step
        self.accumulate = accumulate
        self.average = average
        self.progress = Progress()
        self.waited = 0.0

    def train_epoch(
        self, loader: DataLoader, after_batch: Callable[[Progress, float], bool] = lambda progress, seconds: True
    ) -> Progress:
        """Trains on the rest of the epoch at which ``progress`` stands, and returns how it went.

        ``after_batch`` is called with the progress and the seconds since this call began; if it returns False, the
        epoch stops there, and a later call continues it. ``waited`` is how many of these seconds passed in waiting for
        the loader.
        """
        self.model.train()
        progress, done = self.progress, self.progress.batch
        loader.set_epoch(progress.epoch)
        start, self.waited = time.perf_counter(), 0.0
        rest = itertools.islice(loader, done, None)  # after a stop, without what was seen before it
        for images, labels in self._timed(prefetch(rest, device_of(self.model))):
            position = progress.batch % self.accumulate
            self.train_batch(images, labels, position, min(self.accumulate, len(loader) - progress.batch + position))
            if not after_batch(progress, time.perf_counter() - start):
                return progress
        self.progress = Progress(epoch=progress.epoch + 1)
        return progress

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, while ``waited`` counts the seconds until each is there."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def train_batch(self, images: Tensor, labels: Tensor, position: int = 0, parts: int = 1) -> Tensor:
        """One step: forward, backward, clipping, optimiser, scheduler, average. Returns the loss, unscaled.

        ``labels`` are what the loss takes: classes (N,), shares of them (N, classes), or strings (N, S). Where
        ``parts`` batches make one step, this is the batch at ``position`` among them, and only the last moves the
        weights. With ``capture``, the next call for a batch of this shape may overwrite the loss.
        """
        device = device_of(self.model)
        images, labels = images.to(device), labels.to(device)
        loss, logits = self.step(images, labels, position, parts)
        if position + 1 == parts:
            if self.scheduler is not None:
                self.scheduler.step()
            if self.average is not None:
                self.average.update()
        progress = self.progress
        progress.batch += 1
        progress.images += len(labels)
        progress.loss_sum += float(loss.detach()) * len(labels)
        progress.correct += self.task.correct(logits.numpy(), labels.numpy())
        return loss

    def _step(self, images: Tensor, labels: Tensor, position: int, parts: int) -> tuple[Tensor, Tensor]:
        """What is captured: all that a step does on the device. Returns loss and logits."""
        if position == 0:
            self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(images)
            loss = self.loss(logits, labels)
        self.scaler.scale(loss if parts == 1 else loss / parts).backward()
        if position + 1 == parts:
            self._update()
        return loss, logits

    def _update(self) -> None:
        """Clips the gradients and moves the weights."""
        if self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Any:
        """What `train.evaluate` says of all batches, with the averaged weights where there are such."""
        with self.averaged():
            return evaluate(self.model, batches)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within it, the model has the averaged weights, where there are such."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON data that together continue this training."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        tensors.update({f"optimizer.{name}": value for name, value in optimizer["state"].items()})
        if self.progress.batch % self.accumulate:  # gradients of a step that has only begun
            named = self.model.named_parameters()
            tensors.update({f"gradient.{name}": value.grad for name, value in named if value.grad is not None})
        average = None if self.average is None else self.average.state_dict()
        tensors.update({f"average.{name}": value for name, value in (average or {"averages": {}})["averages"].items()})
        return tensors, {
            "average_updates": None if average is None else average["updates"],
            "param_groups": optimizer["param_groups"],
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": vars(self.progress).copy(),
            "random": list(random.get_state()),
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        """Continues from what ``state_dict`` returned; CheckpointError if it belongs to another training."""
        try:
            self.model.load_state_dict(_below("model.", tensors))
            self.optimizer.load_state_dict(
                {"state": _below("optimizer.", tensors), "param_groups": settings["param_groups"]}
            )
            if self.scheduler is not None:
                self.scheduler.load_state_dict(settings["scheduler"])
            self.scaler.load_state_dict(settings["scaler"])
            if self.average is not None:
                averages = _below("average.", tensors)
                self.average.load_state_dict({"averages": averages, "updates": settings["average_updates"]})
            gradients = _below("gradient.", tensors)
            for name, parameter in self.model.named_parameters():
                value = gradients.get(name)
                parameter.grad = None if value is None else value.to(parameter.device)
            self.progress = Progress(**settings["progress"])
            random.set_state(tuple(settings["random"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the state does not belong to this training: {error}") from error


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
