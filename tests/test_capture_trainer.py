"""`Trainer(capture=True)`: the same training to the last bit, whose steps on `cuda` (or its stand-in) are graphs."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn, optim
from imgrec_engine.data import ArrayDataset, DataLoader
from imgrec_engine.train import Trainer


class Counted:
    """A loss that counts how often Python computes it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, logits, labels):
        self.calls += 1
        return F.cross_entropy(logits, labels, label_smoothing=0.1)


def make_trainer(place, precision, capture):
    ie.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(108, 3)
    ).to(place)
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    schedule = optim.CosineAnnealingLR(optimizer, 40)
    return Trainer(model, optimizer, Counted(), schedule, max_grad_norm=1.0, precision=precision, capture=capture)


def loader():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (22, 8, 8, 1), dtype=np.uint8)
    return DataLoader(ArrayDataset(images, np.arange(22) % 3, ("a", "b", "c")), 8, shuffle=True)


def curve(trainer, epochs):
    """Losses, accuracies and evaluations, and at the end all weights and state."""
    found, batches = [], loader()
    for _ in range(epochs):
        progress = trainer.train_epoch(batches)
        found += [progress.loss, progress.accuracy, trainer.evaluate(batches).loss]
    tensors, settings = trainer.state_dict()
    return found, {name: value.numpy().tobytes() for name, value in tensors.items()}, settings


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_captured_training_is_the_same_training(precision, device):
    ordinary, captured = (make_trainer(device, precision, capture) for capture in (False, True))
    ie.manual_seed(1)
    expected = curve(ordinary, 5)
    ie.manual_seed(1)
    assert curve(captured, 5) == expected
    assert ordinary.loss.calls == 15
    assert captured.loss.calls == (6 if device == "cuda" else 15)  # three for each size of batches


def test_captured_training_continues_from_a_checkpoint(device):
    captured, other = (make_trainer(device, "float16", True) for _ in range(2))
    curve(captured, 3)
    tensors, settings = captured.state_dict()
    state = {name: ie.tensor(value, device="cpu") for name, value in tensors.items()}
    expected = curve(captured, 3)
    for trainer in (captured, other):
        trainer.load_state_dict(state, settings)
        assert curve(trainer, 3) == expected
