"""Pairs of readings, and which of them count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.results import Pair

CLEAN = 0.9  # of the machine's speed: what a pair needs on both sides of each reading
WANTED = 11  # clean pairs
FEWEST = 3  # of pairs that take long
ATTEMPTS = 2  # times as many pairs at most, and then the cleanest count
BUDGET = 8.0  # seconds for the wanted pairs

Take = Callable[[bool], Pair]


def take_pairs(take: Take, seconds: float) -> tuple[Pair, ...]:
    """Takes pairs, each in about so many ``seconds``, until enough are clean; ``take`` is told whether ours goes first.

    On a machine that is never quiet it ends all the same, with the pairs that were disturbed least.
    """
    wanted = max(FEWEST, min(WANTED, int(BUDGET / max(seconds, 1e-9))))
    pairs: list[Pair] = []
    while sum(pair.speed >= CLEAN for pair in pairs) < wanted and len(pairs) < ATTEMPTS * wanted:
        pairs.append(take(len(pairs) % 2 == 0))
    return keep(pairs, wanted)


def keep(pairs: list[Pair], least: int) -> tuple[Pair, ...]:
    """Marks those that count: all clean ones; where they are fewer than ``least``, the cleanest so many."""
    bar = min(CLEAN, sorted((pair.speed for pair in pairs), reverse=True)[min(least, len(pairs)) - 1])
    return tuple(replace(pair, kept=pair.speed >= bar) for pair in pairs)
