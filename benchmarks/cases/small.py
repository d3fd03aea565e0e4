"""Cases in which a kernel has next to nothing to do."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.cases.attention import attention
from benchmarks.cases.case import BOTH, FORWARD, RECORDED, Case
from benchmarks.cases.conv2d import conv2d
from benchmarks.cases.memory_bound import batch_norm, cross_entropy, elementwise, layer_norm, max_pool2d
from benchmarks.cases.models import Inference, Model, TrainingStep
from benchmarks.cases.optimizer import AdamW
from benchmarks.cases.recurrent import recurrent

# What a call costs besides its kernel: alone, with recording, and with the backward pass.
OVERHEAD = tuple(
    replace(case, family="overhead", modes=(FORWARD, RECORDED, BOTH))
    for case in (
        elementwise("relu", 1, 4),
        elementwise("add", 1, 4, inputs=2),
        layer_norm(1, 4),
        conv2d(1, 3, 1, 1, 3),
        attention(1, 1, 2, 4),
        recurrent("lstm", 1, 1, 4, 4),
    )
)

# One of each kind, for a look at all parts in seconds and for the simulator.
TINY: tuple[Case, ...] = (
    *(
        replace(case, family="tiny")
        for case in (
            conv2d(1, 8, 8, 8, 3),
            recurrent("lstm", 2, 3, 8, 8),
            recurrent("gru", 2, 3, 8, 8),
            attention(1, 2, 9, 8),
            batch_norm(2, 4, 8),
            layer_norm(16, 32),
            max_pool2d(1, 8, 8),
            cross_entropy(8, 10),
        )
    ),
    replace(AdamW(), family="tiny"),
    TrainingStep(Model("cnn", 8, 1), batch=2, family="tiny"),
    Inference(Model("cnn_lstm", 8, 1), family="tiny"),
)
