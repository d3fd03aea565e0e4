"""The main job: a photo with a person -> grey image -> CNN features -> recurrent memory -> recognised or not.

    python examples/demo.py --out runs/demo        (or: make demo)

`cnn_lstm` looks at a grey patch of 25 x 25 pixels twice. Convolutions turn it into a map of features; their average
says *what* is there. An LSTM reads the same map row by row, from the hair to the chin, and its memory at the end says
in *what order* it is there. Both are put side by side, and a linear layer decides: face, or no face.

This file is the story; `demo_data.py` makes the training samples, `demo_photo.py` handles the photo. It works offline:
the faces (`lfw_subset`), the photos and the cascade that proposes regions come with scikit-image.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo_data
import demo_photo
import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.data import DataLoader, Dataset, Preprocessing
from imgrec_engine.metrics import Evaluation
from imgrec_engine.optim import AdamW, OneCycleLR
from imgrec_engine.train import Recogniser, Trainer
from imgrec_engine.train.plots import draw_confusion, draw_curves

SEEDS = (0, 1, 2)
EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 64, 3e-3
HARD_WINDOWS_FROM = (4, 8)  # before these epochs the model says which windows it takes for faces

ACCURACY_BAR, REJECTION_BAR = 0.97, 0.95

CHECKPOINT, METRICS = "best.safetensors", "metrics.jsonl"
CURVES, CONFUSION, PHOTO, EXPLAINED = "curves.png", "confusion.png", "photo.png", "explained.png"
FILES = (CHECKPOINT, METRICS, CURVES, CONFUSION, PHOTO, EXPLAINED)

# Every patch is standardised by its own mean and deviation, so a face in the shade looks like one in the sun.
PREPROCESSING = Preprocessing((demo_data.SIDE, demo_data.SIDE), 1, mean=(0.0,), std=(1.0,), per_image=True)


@dataclass(frozen=True)
class Training:
    """One training: the model, what was measured after each epoch, and the result on the held-out quarter."""

    seed: int
    recogniser: Recogniser
    records: list[dict[str, Any]]
    held_out: Evaluation


def main() -> int:
    """Trains with each seed, looks at the photo, writes the results; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Train on real faces, then recognise the face in a photo.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the results")
    out: Path = parser.parse_args().out
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # of a former run
        (out / name).unlink(missing_ok=True)

    faces = ie.data.load("faces", "all")
    windows = demo_data.window_pool(demo_data.load_photos(), 6000, np.random.default_rng(0))
    photo = demo_photo.load_photo()
    proposals = demo_photo.propose(photo)
    print(f"{len(faces)} patches, half of them faces, and {len(windows)} windows of photos without people.")
    print(f"cnn_lstm is trained {len(SEEDS)} times, each time with another quarter of the patches held out.")

    training_start = time.perf_counter()
    trainings = [train(seed, faces, windows) for seed in SEEDS]
    training_seconds = time.perf_counter() - training_start
    verdicts = [demo_photo.judge(training.recogniser, photo, proposals, training.seed) for training in trainings]

    write_results(out, trainings)
    demo_photo.draw(photo, verdicts[0], out / PHOTO)
    demo_photo.explain_face(trainings[0].recogniser, photo, verdicts[0]).draw(out / EXPLAINED)
    passed = report(trainings, verdicts)
    print(f"\nTraining took {training_seconds:.1f} s, all together {time.perf_counter() - start:.1f} s.")
    print(f"{out}/ holds {', '.join(FILES)}: the model, curves and photo of seed {SEEDS[0]}.")
    return 0 if passed else 1


def train(seed: int, faces: Dataset, windows: demo_data.Images) -> Training:
    """Trains `cnn_lstm` from scratch. The held-out quarter is measured after every epoch but decides nothing.

    The loss on it is lower than in training, where the samples are varied, and chosen to be hard.
    """
    start = time.perf_counter()
    rest, held_out = ie.data.split(faces, 0.25, seed)
    recogniser, trainer = build(seed, faces.classes)
    samples = demo_data.Samples(rest, windows, seed)
    records = []
    print(f"seed {seed} ", end="", flush=True)
    for epoch in range(EPOCHS):
        if epoch in HARD_WINDOWS_FROM:
            samples.prefer_hard_windows(recogniser)
        epoch_samples, prepare = samples.draw_epoch(), PREPROCESSING.compose()
        progress = trainer.train_epoch(
            DataLoader(epoch_samples, BATCH_SIZE, shuffle=True, seed=seed, transform=prepare)
        )
        evaluation = recogniser.evaluate(held_out)
        records.append(
            {
                "seed": seed,
                "epoch": epoch + 1,
                "train_loss": progress.loss,
                "train_accuracy": progress.accuracy,
                "validation_loss": evaluation.loss,
                "validation_accuracy": evaluation.accuracy,
                "seconds": time.perf_counter() - start,
            }
        )
        print(".", end="", flush=True)
    print(f" held-out accuracy {evaluation.accuracy:.3f}, {time.perf_counter() - start:.1f} s", flush=True)
    return Training(seed, recogniser, records, evaluation)


def build(seed: int, classes: Sequence[str]) -> tuple[Recogniser, Trainer]:
    """A fresh model with what prepares its images, and what trains it."""
    ie.manual_seed(seed)
    model = ie.models.create("cnn_lstm", len(classes), in_channels=1, image_size=demo_data.SIDE, dropout=0.3)
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * demo_data.EPOCH_SIZE // BATCH_SIZE)
    return Recogniser(model, classes, PREPROCESSING), Trainer(model, optimizer, smoothed_loss, schedule)


def smoothed_loss(logits: ie.Tensor, labels: ie.Tensor) -> ie.Tensor:
    """Cross entropy that asks for 97.5 % of certainty and no more."""
    loss: ie.Tensor = F.cross_entropy(logits, labels, label_smoothing=0.05)
    return loss


def write_results(out: Path, trainings: Sequence[Training]) -> None:
    """The first seed's model and curves, all measurements, and the confusion matrix of all held-out quarters."""
    first = trainings[0]
    first.recogniser.save(out / CHECKPOINT, {"seed": first.seed, "held_out_accuracy": first.held_out.accuracy})
    lines = [json.dumps(record) for training in trainings for record in training.records]
    (out / METRICS).write_text("\n".join(lines) + "\n")
    draw_curves(first.records, out / CURVES)
    confusion = np.sum([training.held_out.confusion for training in trainings], axis=0)
    draw_confusion(confusion, first.recogniser.classes, out / CONFUSION)


def report(trainings: Sequence[Training], verdicts: Sequence[demo_photo.Verdict]) -> bool:
    """Says what came out, and whether it is what the demo promises."""
    print("\nIn the photo of the astronaut a cascade proposes regions; random windows beside her face are added.")
    for training, verdict in zip(trainings, verdicts, strict=True):
        others = verdict.scores[~verdict.of_face].max(initial=0)
        print(
            f"seed {training.seed}: the face scores {verdict.face_score:.3f}, rank {verdict.face_rank} of "
            f"{len(verdict.proposals)} proposals (best other {others:.3f}); "
            f"{verdict.rejected:.1%} of {len(verdict.beside)} windows beside it rejected"
        )
    accuracy = float(np.mean([training.held_out.accuracy for training in trainings]))
    found = all(verdict.face_score > demo_photo.ACCEPTED and verdict.face_rank == 1 for verdict in verdicts)
    rejected = min(verdict.rejected for verdict in verdicts)
    bars = [
        (f"mean held-out accuracy {accuracy:.4f}, to be at least {ACCURACY_BAR}", accuracy >= ACCURACY_BAR),
        ("the face accepted, with the highest score of all proposals, by every model", found),
        (f"windows rejected {rejected:.1%} or more, to be at least {REJECTION_BAR:.0%}", rejected >= REJECTION_BAR),
    ]
    print()
    for promise, kept in bars:
        print(f"{'ok    ' if kept else 'MISSED'}  {promise}")
    print(
        "\nThis recognises regions that something else proposes; 200 patches do not make a detector that scans photos."
        "\nNo pixel of this photo was trained on, but it was looked at when the recipe was made: no unseen test."
    )
    return all(kept for _, kept in bars)


if __name__ == "__main__":
    sys.exit(main())
