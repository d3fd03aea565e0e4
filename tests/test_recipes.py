"""Recipes and what runs them: every one that is shipped builds, and reproducing and tuning go on where they stopped."""

import json
import signal

import numpy as np
import pytest

from imgrec_engine import models
from imgrec_engine.cli import main
from imgrec_engine.data import ArrayDataset, shared
from imgrec_engine.errors import DataError
from imgrec_engine.metrics import roc_auc
from imgrec_engine.train import Run, augmentations
from imgrec_engine.train.defaults import choose
from imgrec_engine.train.recipes import Recipe, as_toml, load_recipe, recipe_names
from imgrec_engine.train.reproduce import as_table, planned, reproduce

PROMISED = [
    "behaviour", "digits", "faces", "fashion", "fashion-long", "fashion-rows",
    "industrial-pcb", "industrial-solar", "medical-blood", "medical-xray", "text",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = generator.integers(0, 90, (64, 8, 8, 1), np.uint8)
    images[labels == 1, :4] += 100
    place = tmp_path_factory.mktemp("data") / "photos.npz"
    np.savez(place, images=images, labels=labels, class_names=np.array(["dark", "light"]))
    return place


@pytest.fixture
def recipe(photos, tmp_path):
    path = tmp_path / "mine.toml"
    settings = {"data": str(photos), "model_arguments": {"width": 4}, "epochs": 3, "batch_size": 16}
    augment = {"crop": {"padding": 1}, "erase": {"p": 0.2}}
    path.write_text(as_toml(Recipe("mine", "tiny", {**settings, "augment": augment})))
    return load_recipe(str(path))


def ignore(kind, what):
    pass


def test_the_recipes_promised_are_there():
    assert set(PROMISED) <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_names_what_there_is(name):
    recipe = load_recipe(name)
    config = recipe.config()
    assert recipe.summary
    assert config.data in shared.SETS or config.data == "digits"
    size = config.image_size or (28, 28)
    model = models.create(config.model, num_classes=7, in_channels=1, image_size=size, **config.model_arguments)
    assert model.config["name"] == config.model
    augmentations.build(config.augment, size)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data = 3\nsummary = 'x'", "data is 3, expected a text"),
        ("data = 'digits'", "a recipe has a summary and data"),
        ("data = 'digits'\nsummary = 'x'\nlearning = 1", "'learning' is no setting of a run; there are data, model"),
        ("data = 'digits'\nsummary = 'x'\nimage_size = [3, 3]", "image_size is"),
        ("data =", "not a recipe"),
        ("data = 'digits'\nsummary = 'x'\nmerge = {a = 3}", "recipe bad: "),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError, match="bad") as raised:
        load_recipe(str(path))
    assert words in str(raised.value)


def test_an_unknown_recipe_lists_the_known(tmp_path, capsys):
    assert main(["train", "--recipe", "cats", "--out", str(tmp_path / "x")]) == 2
    assert "no recipe 'cats'; there are behaviour, digits" in capsys.readouterr().err
    assert main(["train", "--recipe", str(tmp_path / "absent.toml")]) == 2
    assert "absent.toml: cannot be read" in capsys.readouterr().err
    assert main(["recipes"]) == 0
    assert "digits            scikit-learn" in capsys.readouterr().out


def test_recipes_survive_toml(tmp_path):
    merge = {"no action": ("sit", 'the "lie"')}
    settings = {
        "data": "a\\b",
        "epochs": 3,
        "class_weights": True,
        "learning_rate": 1e-05,
        "merge": merge,
        "augment": {},
    }
    recipe = Recipe("x", "it's", settings, leave_one_group_out=True)
    (tmp_path / "x.toml").write_text(as_toml(recipe))
    again = load_recipe(str(tmp_path / "x.toml"))
    assert again.config() == recipe.config()
    assert (again.summary, again.leave_one_group_out) == ("it's", True)


def test_training_by_a_recipe_with_changes(recipe, photos, tmp_path, capsys):
    path = str(tmp_path / "mine.toml")
    assert main(["train", "--recipe", path, "--out", str(tmp_path / "x"), "--epochs", "1", "--seed", "5"]) == 0
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["epochs"], config["seed"], config["batch_size"]) == (1, 5, 16)
    assert main(["train", "--recipe", path, "--out", str(tmp_path / "x"), "--resume"]) == 2
    assert "this run has" in capsys.readouterr().err
    copy = tmp_path / "copy.npz"
    copy.write_bytes(photos.read_bytes())
    arguments = ["--data", str(copy), "--model", "lstm", "--epochs", "1", "--out", str(tmp_path / "y")]
    assert main(["train", "--recipe", path, *arguments]) == 0
    assert json.loads((tmp_path / "y" / "config.json").read_text())["data"] == str(copy)


def test_reproducing_goes_on_where_it_was_stopped(recipe, tmp_path):
    seen = []

    def stopping(run):
        def report(kind, what):
            seen.append((run.folder.name, kind))
            if run.folder.name == "seed-1" and kind == "epoch" and what["epoch"] == 2:
                signal.raise_signal(signal.SIGTERM)

        return report

    code, results = reproduce([recipe], 2, tmp_path / "out", stopping)
    assert code == 143
    assert len(results[0].figures) == 1
    del seen[:]

    def watching(run):
        return lambda kind, what: seen.append((run.folder.name, kind))

    code, results = reproduce([recipe], 2, tmp_path / "out", watching)
    assert code == 0
    assert seen.count(("seed-1", "epoch")) == 1  # the third: two were done
    assert not any(folder == "seed-0" for folder, _ in seen)
    whole = Run.start(tmp_path / "whole", recipe.config(seed=1))
    assert whole.fit(ignore) == 0
    assert (tmp_path / "whole/best.safetensors").read_bytes() == (
        tmp_path / "out/mine/seed-1/best.safetensors"
    ).read_bytes()
    table = (tmp_path / "out/table.md").read_text()
    assert f"| mine | {recipe.settings['data']} | cnn | 2 | {results[0].of('accuracy')} |" in table
    figures = json.loads((tmp_path / "out/results.json").read_text())["results"][0]["figures"]
    assert [figure["accuracy"] for figure in figures] == [figure["accuracy"] for figure in results[0].figures]
    with pytest.raises(DataError, match="this run has epochs 3, not 4"):
        reproduce([recipe], 1, tmp_path / "out", watching, epochs=4)


def test_reproducing_without_the_data_says_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path))
    assert main(["reproduce", "digits", "fashion", "faces", "fashion-rows", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "imgrec: some recipes lack their data:"
    assert said[1].startswith("  fashion, fashion-rows: ")
    assert "made from github.com/zalandoresearch/fashion-mnist" in said[1]
    assert said[2].startswith("  faces: ")
    assert len(said) == 3
    assert not (tmp_path / "out").exists()  # nothing was run


def test_a_run_for_each_group_left_out(recipe, tmp_path, monkeypatch):
    labels = np.arange(30) % 2
    images = np.full((30, 8, 8, 1), 50, np.uint8) + (100 * labels).astype(np.uint8)[:, None, None, None]
    grouped = ArrayDataset(images, labels, ("a", "b"), groups=np.arange(30) // 10 + 1)
    monkeypatch.setattr("imgrec_engine.train.parts.load", lambda name, split: grouped)
    left_out = Recipe("folds", "x", {**recipe.settings, "epochs": 1, "merge": {"all": ["a", "b"]}}, True)
    assert [config.left_out for _, config in planned(left_out, 0, tmp_path)] == [1, 2, 3]
    code, (result,) = reproduce([left_out], 1, tmp_path / "out", lambda run: ignore)
    assert code == 0
    found = [Run.resume(tmp_path / "out/folds/seed-0" / f"without-{group}") for group in (1, 2, 3)]
    accuracies = [run.measurements.read() for run in found]
    assert accuracies == [[record for record in part if "epoch" in record] for part in accuracies]
    assert result.figures[0]["merged_accuracy"] == 1.0
    assert all(set(np.unique(run.test.indices // 10 + 1)) == {run.config.left_out} for run in found)


def test_two_classes_to_which_others_were_merged_have_an_area_under_the_curve(recipe, tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 4
    np.savez(tmp_path / "grades.npz", images=images, labels=labels, split=np.arange(40) // 20)
    merge = {"good": ["0", "1"], "bad": ["2", "3"]}
    settings = {**recipe.settings, "data": str(tmp_path / "grades.npz"), "epochs": 1, "merge": merge}
    code, (result,) = reproduce([Recipe("graded", "x", settings)], 1, tmp_path / "out", lambda run: ignore)
    assert code == 0
    (figures,) = result.figures
    assert "roc_auc" not in figures
    run = Run.resume(tmp_path / "out/graded/seed-0")
    evaluation = run.recogniser.load(run.folder).evaluate(run.test)
    merged = evaluation.probabilities[:, 2:].sum(axis=1)
    assert figures["merged_roc_auc"] == pytest.approx(roc_auc(merged, evaluation.labels >= 2))
    assert f"| {figures['merged_roc_auc']:.4f} |" in as_table([result])


def test_tuning_resumes_prunes_and_writes_a_recipe(recipe, tmp_path, capsys):
    optuna = pytest.importorskip("optuna")
    from imgrec_engine.train import tuning

    out = tmp_path / "study"

    def stopping(run):
        def report(kind, what):
            assert kind != "end"  # nobody looked at the test part
            if run.folder.name == "trial-2":
                signal.raise_signal(signal.SIGINT)

        return report

    assert tuning.tune(recipe, 4, out, stopping) == 130
    assert tuning.tune(recipe, 4, out, lambda run: ignore) == 0
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "study.journal")))
    trials = storage.get_all_trials(storage.get_all_studies()[0]._study_id)
    states = [trial.state.name for trial in trials]
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == 4
    assert states[2] == "FAIL"
    best = max((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    tuned = load_recipe(str(out / "best.toml")).config()
    assert tuned.learning_rate == pytest.approx(best.params["learning_rate"])
    assert tuned.model_arguments["width"] == best.params["width"]
    assert tuned.validation == recipe.config().validation
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == [f"trial-{number}" for number in range(len(trials))]
    assert not any("test_accuracy" in path.read_text() for path in out.glob("*/metrics.jsonl"))
    assert main(["tune", str(tmp_path / "mine.toml"), "--trials", "4", "--out", str(out)]) == 0
    assert "learning_rate = " in capsys.readouterr().out


def test_a_bad_trial_ends_early(recipe, tmp_path):
    optuna = pytest.importorskip("optuna")
    from imgrec_engine.train import tuning

    class Trial:
        def report(self, value, step):
            self.steps = step

        def should_prune(self):
            return self.steps == 2

    run = Run.start(tmp_path / "x", recipe.config())
    with pytest.raises(optuna.TrialPruned):
        tuning._best_accuracy(run, Trial(), ignore)
    assert run.trainer.progress.epoch == 2


def test_without_optuna_tuning_says_what_is_missing(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["tune", str(tmp_path / "mine.toml"), "--trials", "2", "--out", str(tmp_path / "o")]) == 2
    assert "pip install imgrec_engine[tune]" in capsys.readouterr().err


def chosen(images, labels, **given):
    classes = [str(number) for number in range(max(labels) + 1)]
    return {c.name: c.value for c in choose(ArrayDataset(images, labels, classes), given)}


def test_defaults_suit_number_and_size():
    few = chosen(np.zeros((200, 300, 200, 3), np.uint8), np.arange(200) % 2)
    assert few["image_size"] == (96, 64)
    assert few["batch_size"] == 16
    assert set(few["augment"]) == {"crop", "flip", "affine", "color"}
    assert "class_weights" not in few
    many = chosen(np.zeros((6000, 8, 8, 1), np.uint8), (np.arange(6000) % 10 == 0).astype(int))
    assert many == {"model": "resnet20", "average": 0.998, "augment": {"crop": {}}, "class_weights": True}
    clips = chosen(np.zeros((3000, 2, 8, 8, 1), np.uint8), np.arange(3000) % 2, average=0.0)
    assert clips == {"model": "video_lstm", "augment": {"crop": {}}}


def test_a_folder_of_two_hundred_photos_becomes_a_model(tmp_path, capsys):
    """The embedded faces, written out as photos: the command as a person types it, with fewer epochs."""
    pytest.importorskip("skimage")
    from PIL import Image

    from imgrec_engine.data.embedded import faces

    for number, (image, label) in enumerate(faces()):
        folder = tmp_path / "photos" / ("other", "face")[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image[..., 0] * 255).astype(np.uint8))
        picture.resize((60 + number % 2, 60)).save(folder / f"{number}.jpg", quality=92)
    out = tmp_path / "run"
    arguments = ["--out", str(out), "--epochs", "12", "--image-size", "32"]
    assert main(["train", str(tmp_path / "photos"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "chosen: model: cnn (a small network for 150 images)" in text
    assert "chosen: augment: crop, affine" in text
    assert "waiting for data" in text
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"] >= 0.9
