"""Pictures of a run, drawn where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.metrics import Evaluation


def _figure(width: float, height: float) -> Any:
    """A figure without a window, or None where matplotlib is absent: a run is complete without pictures."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> bool:
    """Loss and accuracy over the epochs; False where matplotlib is absent."""
    figure = _figure(9, 3.6)
    if figure is None:
        return False
    epochs = [record for record in records if "epoch" in record]
    test = next((record["test_accuracy"] for record in reversed(records) if "test_accuracy" in record), None)
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, color in (("train", "tab:blue"), ("validation", "tab:orange")):
            values = [record.get(f"{part}_{kind}", np.nan) for record in epochs]  # without validation there is none
            axes.plot([record["epoch"] for record in epochs], values, "o-", markersize=3, color=color, label=part)
        axes.set(xlabel="epoch", ylabel=kind)
        axes.grid(alpha=0.3)
        if kind == "accuracy" and test is not None:
            axes.axhline(test, linestyle="--", color="tab:green", label=f"test {test:.4f}")
        axes.legend()
    figure.savefig(path)
    return True


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str], path: Path) -> bool:
    """The confusion matrix, each row as shares of its true class; False where matplotlib is absent."""
    size = 2.5 + 0.45 * len(classes)
    figure = _figure(size + 0.5, size)
    if figure is None:
        return False
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="true class")
    if len(classes) <= 20:
        for row, column in np.ndindex(confusion.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path)
    return True


def draw_roc(evaluation: Evaluation, positive: str, path: Path) -> bool:
    """True against false positives of the second of two classes; False where matplotlib is absent."""
    figure = _figure(4, 4)
    if figure is None:
        return False
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], linestyle="--", color="grey", linewidth=1)
    axes.plot(*evaluation.roc_curve(), label=f"area {evaluation.summary()['roc_auc']:.4f}")
    axes.set(xlabel="false positives", ylabel="true positives", title=positive)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)
    return True
