"""From the class probabilities of each step to the labels that they spell, for models trained with `F.ctc_loss`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.errors import ShapeError
from imgrec_engine.tensor import Tensor

__all__ = ["ctc_beam_search_decode", "ctc_greedy_decode"]

Scores = Tensor | NDArray[Any]
Spelling = tuple[int, ...]


def _samples(op: str, log_probs: Scores, lengths: Sequence[int] | None) -> Iterator[NDArray[np.float64]]:
    """Each sample's steps, in float64."""
    scores = np.asarray(log_probs.numpy() if isinstance(log_probs, Tensor) else log_probs).astype(np.float64)
    if scores.ndim != 3:
        raise ShapeError(f"{op}: log_probs are {scores.shape}, expected (N, T, classes)")
    used = [scores.shape[1]] * len(scores) if lengths is None else [int(length) for length in lengths]
    if len(used) != len(scores) or not all(0 <= length <= scores.shape[1] for length in used):
        raise ShapeError(
            f"{op}: lengths are {used}, expected {len(scores)} of them, from 0 to the {scores.shape[1]} steps of "
            f"log_probs {scores.shape}"
        )
    return (sample[:length] for sample, length in zip(scores, used, strict=True))


def ctc_greedy_decode(log_probs: Scores, lengths: Sequence[int] | None = None, blank: int = 0) -> list[list[int]]:
    """What the likeliest path of each sample spells: repetitions merged, then blanks dropped.

    ``log_probs`` (N, T, classes) may be any scores of the classes, ``lengths`` says how many steps each sample has.

    >>> steps = np.eye(3)[[1, 1, 0, 1, 2]]  # the classes in turn; 0 is blank
    >>> ctc_greedy_decode(steps[None])
    [[1, 1, 2]]
    """
    found = []
    for sample in _samples("ctc_greedy_decode", log_probs, lengths):
        path = sample.argmax(axis=1)
        starts = np.ones(len(path), dtype=bool)
        starts[1:] = path[1:] != path[:-1]
        found.append([int(k) for k in path[starts] if k != blank])
    return found


def ctc_beam_search_decode(
    log_probs: Scores, lengths: Sequence[int] | None = None, blank: int = 0, width: int = 10
) -> list[list[tuple[list[int], float]]]:
    """For each sample the likeliest spellings with their log probabilities, the likeliest first.

    Of all spellings, ``width`` are kept from step to step; the probability of one is that of all its paths within the
    beam. ``log_probs`` (N, T, classes) must be normalised, as by `log_softmax`. Ties go to the smaller classes.

    Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs"
    (2014).

    >>> two_ways = np.log([[[0.6, 0.4], [0.6, 0.4]]])  # the likeliest path is blank twice, but three spell class 1
    >>> ctc_greedy_decode(two_ways)
    [[]]
    >>> [(labels, round(float(np.exp(score)), 2)) for labels, score in ctc_beam_search_decode(two_ways)[0]]
    [([1], 0.64), ([], 0.36)]
    """
    if width < 1:
        raise ValueError(f"ctc_beam_search_decode: width is {width}, expected 1 or more")
    return [_search(sample, blank, width) for sample in _samples("ctc_beam_search_decode", log_probs, lengths)]


def _search(sample: NDArray[np.float64], blank: int, width: int) -> list[tuple[list[int], float]]:
    beam: dict[Spelling, tuple[float, float]] = {(): (0.0, -np.inf)}  # paths that end in blank, and that do not
    for step in sample:
        ends: dict[Spelling, tuple[float, float]] = {}
        for spelling, (in_blank, in_label) in beam.items():
            together = float(np.logaddexp(in_blank, in_label))
            for k, score in enumerate(step.tolist()):
                if k == blank:
                    _add(ends, spelling, together + score, -np.inf)
                elif spelling and k == spelling[-1]:  # goes on, or begins anew after a blank
                    _add(ends, spelling, -np.inf, in_label + score)
                    _add(ends, (*spelling, k), -np.inf, in_blank + score)
                else:
                    _add(ends, (*spelling, k), -np.inf, together + score)
        ranked = sorted(ends.items(), key=lambda item: (-_both(item[1]), item[0]))
        beam = dict(ranked[:width])
    return [(list(spelling), _both(pair)) for spelling, pair in beam.items()]


def _add(ends: dict[Spelling, tuple[float, float]], spelling: Spelling, in_blank: float, in_label: float) -> None:
    if max(in_blank, in_label) > -np.inf:  # what cannot be takes no place in the beam
        before = ends.get(spelling, (-np.inf, -np.inf))
        ends[spelling] = float(np.logaddexp(before[0], in_blank)), float(np.logaddexp(before[1], in_label))


def _both(pair: tuple[float, float]) -> float:
    return float(np.logaddexp(pair[0], pair[1]))
