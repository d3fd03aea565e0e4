"""Searching a recipe's settings with Optuna, judged on the validation part."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgrec_engine import models
from imgrec_engine.errors import DataError
from imgrec_engine.train.augmentations import strengthened
from imgrec_engine.train.recipes import Recipe, as_toml
from imgrec_engine.train.run import Report, Run

JOURNAL, BEST_RECIPE = "study.journal", "best.toml"
VALIDATION = 0.2  # the share where the recipe itself keeps nothing back


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A signal asked to stop; ``exit_code`` says which."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


def tune(recipe: Recipe, trials: int, folder: Path, report: Callable[[Run], Report]) -> int:
    """Tries settings until ``trials`` of them are done, and writes the best as a recipe; returns the exit code.

    All that is known lies in the folder: called again, with more trials or after having been stopped, it goes on. Each
    trial is a run of its own that never looks at the test part; one whose validation accuracy is below the median of
    the others at the same epoch ends early. DataError where Optuna is not installed.
    """
    optuna = _optuna()
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        study_name=recipe.name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=len(_done(storage, recipe.name))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
    )
    while len(_done(storage, recipe.name)) < trials:
        trial = study.ask()
        changes = suggest(recipe, trial)
        run = Run.start(folder / f"trial-{trial.number}", recipe.config(**changes))
        try:
            accuracy = _best_accuracy(run, trial, report(run))
        except Stopped as stopped:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return stopped.exit_code
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        study.tell(trial, accuracy)
        changes["validation"] = recipe.config().validation
        if study.best_trial.number == trial.number:
            best = Recipe(recipe.name, recipe.summary, {**recipe.settings, **changes}, recipe.leave_one_group_out)
            (folder / BEST_RECIPE).write_text(as_toml(best), encoding="utf-8")
    return 0


def suggest(recipe: Recipe, trial: Any) -> dict[str, Any]:
    """The settings that a trial changes, drawn from around the recipe's own."""
    config = recipe.config()
    rate = config.learning_rate
    changes: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", rate / 4, rate * 4, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 0.3, log=True),
        "augment": strengthened(config.augment, trial.suggest_float("augmentation_strength", 0.0, 2.0)),
        "validation": config.validation or VALIDATION,
    }
    if models.task(config.model) == "classification":
        changes["label_smoothing"] = trial.suggest_float("label_smoothing", 0.0, 0.2)
    width = models.defaults(config.model) | config.model_arguments
    if "width" in width:
        widths = [max(4, round(width["width"] * factor / 4) * 4) for factor in (0.5, 1, 2)]
        changes["model_arguments"] = {**config.model_arguments, "width": trial.suggest_categorical("width", widths)}
    return changes


def _best_accuracy(run: Run, trial: Any, report: Report) -> float:
    """Trains, telling the trial of every epoch; the best validation accuracy."""
    optuna = _optuna()

    def told(kind: str, what: dict[str, Any]) -> None:
        report(kind, what)
        if kind == "epoch":
            trial.report(what["validation_accuracy"], what["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    code = run.learn(told)
    run.measurements.close()
    if code != 0:
        raise Stopped(code)
    return run.best[0]


def _done(storage: Any, name: str) -> list[Any]:
    """The trials that came to their end; one that a crash or a signal ended is no trial."""
    optuna = _optuna()
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    known = {study.study_name: study._study_id for study in storage.get_all_studies()}
    return storage.get_all_trials(known[name], states=states) if name in known else []


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise DataError("tune needs Optuna, which is not installed: pip install imgrec_engine[tune]") from error
    return optuna
