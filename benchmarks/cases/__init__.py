"""What is measured, by family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.cases.attention import ATTENTION
from benchmarks.cases.case import Case
from benchmarks.cases.conv2d import CONV2D, CONV2D_MORE
from benchmarks.cases.gpu import GPU
from benchmarks.cases.memory_bound import ELEMENTWISE, LOSS, NORM, POOL2D
from benchmarks.cases.models import INFERENCE, TRAIN
from benchmarks.cases.optimizer import OPTIMIZER
from benchmarks.cases.recurrent import RECURRENT
from benchmarks.cases.small import OVERHEAD, TINY

FAMILIES: dict[str, tuple[Case, ...]] = {
    "conv2d": CONV2D,
    "conv2d-more": CONV2D_MORE,
    "recurrent": RECURRENT,
    "attention": ATTENTION,
    "norm": NORM,
    "pool2d": POOL2D,
    "loss": LOSS,
    "elementwise": ELEMENTWISE,
    "optimizer": OPTIMIZER,
    "train": TRAIN,
    "inference": INFERENCE,
    "overhead": OVERHEAD,
    "gpu": GPU,
    "tiny": TINY,
}


def select(families: Iterable[str], parts: Iterable[str]) -> Iterator[Case]:
    """The cases of these families; where there are ``parts``, those whose names hold one of them."""
    wanted = tuple(parts)
    for family in families:
        for case in FAMILIES[family]:
            if not wanted or any(part in case.name for part in wanted):
                yield case


def find(family: str, name: str) -> Case:
    """The one case of this name."""
    (case,) = (case for case in FAMILIES[family] if case.name == name)
    return case
