"""Pictures of a report: ratios, and the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.results import Measurement, Report

ROW = 0.22  # inches


def draw(report: Report, path: Path) -> None:
    """Writes both beside each other."""
    compared = [m for m in report.measurements if m.series[0].ratio is not None]
    counted = [m for m in report.measurements if m.flop]
    height = max(4.0, 1.5 + ROW * len(compared))
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, height), layout="constrained")
    _ratios(left, compared)
    _roofline(right, counted, report)
    figure.suptitle(f"{report.machine['processor']}, {report.machine['threads']} threads, {report.machine['commit']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ratios(axes: Any, measurements: list[Measurement]) -> None:
    """A bar for each case from 1, where both are equally fast, with quartiles."""
    for place, measurement in enumerate(measurements):
        ratio = measurement.series[0].ratio
        assert ratio is not None
        axes.barh(place, ratio.median - 1, left=1, color="tab:green" if ratio.median >= 1 else "tab:red", height=0.7)
        axes.plot([ratio.low, ratio.high], [place, place], color="black", linewidth=1)
    labels = [f"{m.family} {m.case}, {m.mode}" for m in measurements]
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("their time / ours")


def _roofline(axes: Any, measurements: list[Measurement], report: Report) -> None:
    """Speed over operations a byte, below the machine's ceilings."""
    ceilings = report.machine["ceilings"]
    ridge = ceilings["flops"] / ceilings["bandwidth"]
    axes.plot(
        [ridge / 256, ridge, ridge * 256],
        [ceilings["flops"] / 256 / 1e9, ceilings["flops"] / 1e9, ceilings["flops"] / 1e9],
        color="black",
        label="copy bandwidth, multiply-adds",
    )
    for family in dict.fromkeys(m.family for m in measurements):
        points = [
            (m.flop / m.bytes, m.flop / m.series[0].ours.median / 1e9)
            for m in measurements
            if m.family == family and m.flop and m.bytes
        ]
        axes.scatter(*zip(*points, strict=True), label=family, s=18)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations / byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=8)
