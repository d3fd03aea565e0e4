"""A small training with all that a captured step must keep: dropout, statistics, a changing rate, loss scaling."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn, optim, random


class Training:
    """A model with dropout and all that a step changes, its losses, and how often Python ran the step."""

    def __init__(self, place, make_optimizer, capture, max_norm=None):
        ie.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(48, 16), nn.Dropout(0.5), nn.Linear(16, 3),
        ).to(place)  # fmt: skip
        self.optimizer = make_optimizer(self.model.parameters())
        self.place, self.max_norm, self.runs = place, max_norm, 0
        self.step = ie.capture(self._step) if capture else self._step

    def _step(self, images, labels):
        self.runs += 1
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=0.1)
        loss.backward()
        if self.max_norm is not None:
            optim.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        return loss

    def batch(self, seed, size=6):
        images = np.random.default_rng(seed).random((size, 8, 8, 1), dtype=np.float32)
        return ie.tensor(images, device=self.place), ie.tensor(np.arange(size) % 3, device=self.place)

    def train(self, steps, sizes=(6,)):
        losses = []
        schedule = optim.CosineAnnealingLR(self.optimizer, steps)
        for number in range(steps):
            losses.append(self.step(*self.batch(number, sizes[number % len(sizes)])).item())
            schedule.step()
        return losses

    def state(self):
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [p.grad for p in self.model.parameters()]
        tensors += [value for p in self.model.parameters() for value in self.optimizer.state.get(p, {}).values()]
        return [x.numpy().tobytes() for x in tensors], random.get_state()


OPTIMIZERS = {
    "adamw": lambda parameters: optim.AdamW(parameters, lr=0.05),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.05, weight_decay=0.01),
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
}


class ScaledTraining(Training):
    """The same in float16 with loss scaling; a batch's factor of infinity makes its gradients overflow."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scaler = optim.GradScaler(init_scale=2.0**10, growth_interval=4)

    def _step(self, images, labels, factor):
        self.runs += 1
        self.optimizer.zero_grad()
        with ie.autocast("float16"):
            loss = F.cross_entropy(self.model(images), labels)
        self.scaler.scale(loss * factor).backward()
        if self.max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            optim.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def train(self, steps, overflows):
        schedule, curve = optim.CosineAnnealingLR(self.optimizer, steps), []
        for number in range(steps):
            factor = ie.tensor(np.float32("inf") if number in overflows else 1.0, "float32", device=self.place)
            loss = self.step(*self.batch(number), factor)
            schedule.step()
            curve.append((loss.item(), self.scaler.get_scale(), [p.numpy().tobytes() for p in self.model.parameters()]))
        return curve
