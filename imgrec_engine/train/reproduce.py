"""Running recipes with several seeds, and the table of what came out."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.data import shared
from imgrec_engine.errors import DataError
from imgrec_engine.train.config import CONFIG, RunConfig
from imgrec_engine.train.events import Measurements
from imgrec_engine.train.parts import groups_in
from imgrec_engine.train.recipes import Recipe
from imgrec_engine.train.run import Report, Run

RESULTS, TABLE = "results.json", "table.md"


@dataclass
class Result:
    """What the runs of a recipe gave: for each seed the figures of the test, means over the groups left out."""

    recipe: Recipe
    figures: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def of(self, name: str) -> str:
        """Mean and sample standard deviation of a figure over the seeds; empty where it was not measured."""
        values = [figures[name] for figures in self.figures if name in figures]
        if not values:
            return ""
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        return f"{np.mean(values):.4f}{spread}"


def planned(recipe: Recipe, seed: int, folder: Path, **changes: Any) -> list[tuple[Path, RunConfig]]:
    """The folders and configurations of the runs that judge a recipe with a seed: one, or one for each group."""
    config, place = recipe.config(seed=seed, **changes), folder / recipe.name / f"seed-{seed}"
    if not recipe.leave_one_group_out:
        return [(place, config)]
    groups = groups_in(config.data)
    return [(place / f"without-{group}", recipe.config(seed=seed, **changes, left_out=group)) for group in groups]


def reproduce(
    recipes: Sequence[Recipe], seeds: int, folder: Path, report: Callable[[Run], Report], **changes: Any
) -> tuple[int, list[Result]]:
    """Runs each recipe with the seeds 0, 1, ..., each run in a folder of its own, and writes the table of all results.

    DataError before anything is run, naming every data set that is not on this machine. What is finished is not run
    again, and what was stopped goes on; DataError where a folder holds the run of other settings. ``report`` gives for
    a run what hears of its progress. Returns the exit code of the run that was stopped, or 0, and the results so far.
    """
    _check_data(recipes)
    results = []
    for recipe in recipes:
        results.append(result := Result(recipe))
        for seed in range(seeds):
            tests, seconds = [], 0.0
            for place, config in planned(recipe, seed, folder, **changes):
                code, records = _finished(place, config, report)
                if code != 0:
                    return code, results
                tests.append(_figures(records[-1]))
                seconds += sum(record.get("seconds", 0.0) for record in records)
            result.figures.append({name: float(np.mean([test[name] for test in tests])) for name in tests[0]})
            result.seconds.append(seconds)
            _write(results, folder)
    return 0, results


def _check_data(recipes: Sequence[Recipe]) -> None:
    problems = []
    for name in dict.fromkeys(recipe.settings["data"] for recipe in recipes):
        try:
            if name in shared.SETS:
                shared.location(name)
        except DataError as error:
            users = ", ".join(recipe.name for recipe in recipes if recipe.settings["data"] == name)
            problems.append(f"{users}: {error}")
    if problems:
        raise DataError("\n  ".join(["some recipes lack their data:", *problems]))


def _finished(place: Path, config: RunConfig, report: Callable[[Run], Report]) -> tuple[int, list[dict[str, Any]]]:
    """Brings the run in a folder to its end: the exit code and its records."""
    measurements = Measurements(place)
    if (place / CONFIG).exists():
        records = measurements.read()
        if records and "test_accuracy" in records[-1]:
            Run.check_settings(place, config.to_json())
            return 0, records
        run = Run.resume(place, config.to_json())
    else:
        run = Run.start(place, config)
    code = run.fit(report(run))
    return code, measurements.read()


def _figures(record: dict[str, Any]) -> dict[str, float]:
    return {name.removeprefix("test_"): float(value) for name, value in record.items() if name.startswith("test_")}


def _write(results: Sequence[Result], folder: Path) -> None:
    described = [
        {"recipe": result.recipe.name, "figures": result.figures, "seconds": result.seconds} for result in results
    ]
    (folder / RESULTS).write_text(json.dumps({"machine": machine(), "results": described}, indent=2) + "\n")
    (folder / TABLE).write_text(as_table(results))


def as_table(results: Sequence[Result]) -> str:
    """The table of docs/recipes.md: a row for each recipe.

    >>> from imgrec_engine.train.recipes import Recipe
    >>> recipe = Recipe("mine", "", {"data": "photos", "model": "cnn"})
    >>> print(as_table([Result(recipe, [{"accuracy": 0.75}, {"accuracy": 0.85}], [10.0, 12.0])]).splitlines()[2])
    | mine | photos | cnn | 2 | 0.8000 ± 0.0707 |  |  | 11 s |
    """
    lines = [
        "| recipe | set | model | seeds | accuracy | merged classes | ROC-AUC | time of a seed |",
        "|---" * 8 + "|",
    ]
    for result in results:
        settings, seconds = result.recipe.settings, np.mean(result.seconds) if result.seconds else 0.0
        time = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
        area = result.of("roc_auc") or result.of("merged_roc_auc")
        figures = [result.of("accuracy"), result.of("merged_accuracy"), area]
        cells = [result.recipe.name, settings["data"], settings.get("model", "cnn"), str(len(result.figures))]
        lines.append(f"| {' | '.join([*cells, *figures, time])} |")
    return "\n".join([*lines, "", f"Mean and standard deviation over the seeds; {machine()}.", ""])


def machine() -> str:
    """The processor and the number of threads that the kernels use."""
    return f"{_processor()}, {kernels.get_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
