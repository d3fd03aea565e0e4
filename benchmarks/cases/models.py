"""Whole models: training steps, and one image."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases.case import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    FORWARD,
    SEED,
    STEP,
    Arrays,
    Framework,
    Input,
    Program,
    Variant,
)

BATCHES = 4  # in turn, so that a model is not taught one batch by heart
CHECKED_STEPS = 5
RATE = 1e-5  # AdamW makes whole steps of rounding errors; with large ones two exact trainings soon part
CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A model of ours beside its twin, for square images."""

    name: str
    size: int
    channels: int

    def ours(self, ie: Any) -> Any:
        """Ours, with weights from a fixed seed."""
        ie.manual_seed(SEED)
        return ie.models.create(self.name, num_classes=CLASSES, in_channels=self.channels, image_size=self.size)

    def twin(self, channels_last: bool, torch: Any) -> Any:
        """PyTorch's, with the filters in memory as its images will be."""
        twins = importlib.import_module("benchmarks.twins")  # it imports PyTorch
        model = twins.TWINS[self.name](CLASSES, self.channels, self.size)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    def variants(self, framework: str) -> tuple[Variant, ...]:
        """Ours, and the twin in both of PyTorch's layouts."""
        if framework == "ours":
            return (Variant(self.ours),)
        layouts = (CHANNELS_LAST, CHANNELS_FIRST) if framework == "torch" else ()
        return tuple(Variant(functools.partial(self.twin, way is CHANNELS_LAST), way) for way in layouts)

    def build(self, framework: Framework, variant: Variant, weights: Arrays) -> tuple[Any, Callable[[], Arrays]]:
        """The model on its device, the twin with these weights; and what gives the twin its weights."""
        model = framework.place(variant.build(framework.module))
        if weights:
            model.load_state_dict({name: framework.tensor(array) for name, array in weights.items()})

        def export() -> Arrays:
            if framework.name != "ours":
                return {}
            exported: Arrays = framework.module.convert.to_torch_state_dict(model.state_dict())
            return exported

        return model, export

    def images(self, count: int, seed: int) -> Any:
        """Random ones."""
        return Input((count, self.size, self.size, self.channels)).draw(seed)


@dataclass(frozen=True)
class TrainingStep:
    """zero_grad, forward, cross entropy, backward, AdamW."""

    model: Model
    batch: int = 32
    family: str = "train"
    modes: tuple[str, ...] = (STEP,)

    @property
    def name(self) -> str:
        """The model and its batch."""
        return f"{self.model.name}, {self.batch}x{self.model.size}x{self.model.size}x{self.model.channels}"

    def variants(self, framework: str, mode: str) -> tuple[Variant, ...]:
        """Those of the model."""
        return self.model.variants(framework)

    def program(self, framework: Framework, mode: str, variant: Variant, weights: Arrays) -> Program:
        """The results are the losses of the first steps."""
        model, export = self.model.build(framework, variant, weights)
        optimizer = framework.adamw(model.parameters(), RATE)
        cross_entropy = framework.functional.cross_entropy
        batches = itertools.cycle(
            (
                framework.tensor(variant.layout.of(self.model.images(self.batch, SEED + i))),
                framework.tensor(Input((self.batch,), classes=CLASSES).draw(SEED + i)),
            )
            for i in range(BATCHES)
        )

        def step() -> Any:
            images, labels = next(batches)
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            return loss

        def results() -> Arrays:
            return {"losses": np.array([framework.numpy(step()) for _ in range(CHECKED_STEPS)])}

        return Program(step, results, weights=export)

    def work(self, mode: str) -> None:
        """Not counted."""


@dataclass(frozen=True)
class Inference:
    """The logits of one image."""

    model: Model
    family: str = "inference"
    modes: tuple[str, ...] = (FORWARD,)

    @property
    def name(self) -> str:
        """The model and its image."""
        return f"{self.model.name}, 1x{self.model.size}x{self.model.size}x{self.model.channels}"

    def variants(self, framework: str, mode: str) -> tuple[Variant, ...]:
        """Those of the model."""
        return self.model.variants(framework)

    def program(self, framework: Framework, mode: str, variant: Variant, weights: Arrays) -> Program:
        """In evaluation mode, without gradients."""
        model, export = self.model.build(framework, variant, weights)
        model.eval()
        image = framework.tensor(variant.layout.of(self.model.images(1, SEED)))

        def forward() -> Any:
            return model(image)

        def results() -> Arrays:
            with framework.no_grad():
                return {"logits": framework.numpy(forward())}

        return Program(forward, results, framework.no_grad, export)

    def work(self, mode: str) -> None:
        """Not counted."""


MODELS = tuple(
    Model(name, *size) for name in ("cnn", "resnet18", "cnn_lstm", "attention") for size in ((28, 1), (64, 3))
)
TRAIN = tuple(TrainingStep(model) for model in MODELS)
INFERENCE = tuple(Inference(model) for model in MODELS)
