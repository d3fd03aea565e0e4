"""Runs with everything switched on: stopped anywhere, continued to the same bits; what they divide and record."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from imgrec_engine import checkpoint
from imgrec_engine.data import ArrayDataset
from imgrec_engine.data.streams import item_generator
from imgrec_engine.errors import CheckpointError, DataError
from imgrec_engine.metrics import Evaluation
from imgrec_engine.train import Run, RunConfig, augmentations, parts
from imgrec_engine.train.augmentations import strengthened
from imgrec_engine.train.config import read_config
from imgrec_engine.train.run import merged_classes

EVERYTHING = {
    "model": "cnn",
    "model_arguments": {"width": 4, "dropout": 0.3},
    "epochs": 3,
    "batch_size": 6,
    "accumulate": 3,
    "label_smoothing": 0.1,
    "average": 0.9,
    "class_weights": True,
    "patience": 2,
    "augment": {
        "crop": {"padding": 1},
        "flip": {},
        "rotate90": {},
        "affine": {"degrees": 10, "scale": 0.1, "shear": 5, "translate": 0.1},
        "color": {"brightness": 0.2, "contrast": 0.2},
        "erase": {"p": 0.5},
        "mixup": {"alpha": 0.3},
        "cutmix": {},
    },
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An npz file of three classes, the last with half as many images; three groups are known by their light."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [24, 24, 12])
    images = generator.integers(0, 90, (60, 8, 8, 1), np.uint8)
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 3] += 120
    place = tmp_path_factory.mktemp("data") / "photos.npz"
    np.savez(place, images=images, labels=labels, class_names=np.array(["a", "b", "c"]))
    return place


def ignore(kind, what):
    pass


def stop_after(batches):
    """A report that asks to stop after some batches, as Ctrl-C does."""
    seen = 0

    def report(kind, what):
        nonlocal seen
        seen += kind == "batch"
        if kind == "batch" and seen == batches:
            signal.raise_signal(signal.SIGINT)

    return report


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert Run.start(folder, RunConfig(str(photos), **EVERYTHING)).fit(ignore) == 0
    return folder


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (7,), (8, 1, 2), (11,), (14, 4), (20,)])
def test_a_run_with_everything_continues_to_the_same_bits(stops, whole, photos, tmp_path):
    """Seven batches an epoch, three to a step: stops in mid-accumulation, between steps and at epochs' ends."""
    run = Run.start(tmp_path / "x", RunConfig(str(photos), **EVERYTHING, workers=2))
    assert len(run.loader) == 7
    for stop in stops:
        assert run.fit(stop_after(stop)) == 130
        run = Run.resume(tmp_path / "x")
    assert run.fit(ignore) == 0
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "x" / name).read_bytes() == (whole / name).read_bytes()
    assert measured(tmp_path / "x") == measured(whole)


def measured(folder):
    """The records without what the clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "images_per_second", "waited"}
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def test_the_best_weights_are_the_averaged_ones(whole):
    best, last = (checkpoint.load(whole / f"{name}.safetensors") for name in ("best", "last"))
    epoch = best[1]["epoch"]
    weight = "classifier.weight"
    raw, averaged = last[0][f"model.{weight}"].numpy(), last[0][f"average.{weight}"].numpy()
    assert not np.array_equal(raw, averaged)
    if epoch == 3:
        np.testing.assert_array_equal(best[0][weight].numpy(), averaged)
    assert not np.array_equal(best[0][weight].numpy(), raw)


def test_patience_ends_a_run(photos, tmp_path):
    config = RunConfig(str(photos), model_arguments={"width": 4}, epochs=50, learning_rate=0.0, patience=3)
    run = Run.start(tmp_path / "x", config)
    assert run.fit(ignore) == 0
    assert run.trainer.progress.epoch == run.best_epoch + 3
    again = Run.resume(tmp_path / "x")
    assert again.is_trained


def test_without_validation_all_is_trained_on_and_the_last_epoch_kept(photos, tmp_path):
    config = RunConfig(str(photos), model_arguments={"width": 4}, epochs=2, validation=0.0)
    run = Run.start(tmp_path / "x", config)
    assert run.fit(ignore) == 0
    assert len(run.train) == 45
    assert run.best_epoch == 2
    *epochs, test = run.measurements.read()
    assert "validation_accuracy" not in epochs[0]
    assert test["test_best_epoch"] == 2


def grouped(count=60):
    labels = np.arange(count) % 3
    return ArrayDataset(np.zeros((count, 8, 8, 1), np.uint8), labels, "abc", groups=np.arange(count) // 10)


def test_nobody_is_in_two_parts(monkeypatch):
    monkeypatch.setattr(parts, "load", lambda name, split: grouped())
    divided = parts.divide(RunConfig("x", left_out=4, validation=0.3))
    groups = [set(parts.groups_of(part).tolist()) for part in divided]
    assert groups[2] == {4}
    assert len(groups[1]) == 2
    assert len(groups[0]) == 3
    assert set().union(*groups) == set(range(6))
    assert parts.groups_in("x") == list(range(6))
    with pytest.raises(DataError, match="has no group 9"):
        parts.divide(RunConfig("x", left_out=9))


def test_a_validation_part_of_the_set_is_used(tmp_path):
    images = np.zeros((6, 8, 8), np.uint8)
    arrays = {f"{split}_images": images[:count] for split, count in (("train", 6), ("val", 4), ("test", 2))}
    arrays |= {f"{split}_labels": np.arange(count) % 2 for split, count in (("train", 6), ("val", 4), ("test", 2))}
    np.savez(tmp_path / "set.npz", **arrays)
    assert [len(part) for part in parts.divide(RunConfig(str(tmp_path / "set.npz")))] == [6, 4, 2]
    assert [len(part) for part in parts.divide(RunConfig(str(tmp_path / "set.npz"), validation=0))] == [6, 0, 2]


def test_merged_classes_are_counted_as_one():
    numbers = merged_classes(["walk", "sit", "lie"], {"no action": ["sit", "lie"]})
    probabilities = np.array([[0.4, 0.3, 0.3], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3]], np.float32)
    evaluation = Evaluation(1.0, probabilities, np.array([1, 2, 0]))
    merged = evaluation.merged(numbers)
    assert evaluation.accuracy == pytest.approx(1 / 3)
    assert merged.accuracy == pytest.approx(2 / 3)  # two are won, and the last is lost
    np.testing.assert_allclose(merged.probabilities, [[0.4, 0.6], [0.2, 0.8], [0.4, 0.6]], rtol=1e-6)
    assert merged.labels.tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="no class 'run'"):
        merged_classes(["walk", "sit"], {"x": ["run"]})


def test_configurations_survive_json(whole, photos):
    config = RunConfig(str(photos), **EVERYTHING, merge={"x": ("a", "b")}, image_size=(9, 12))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert read_config(whole) == RunConfig(str(photos), **EVERYTHING)


def test_a_config_of_another_version_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"data": "digits", "augment": ["crop"]}))
    with pytest.raises(CheckpointError, match=r"config.json: damaged, or of another version: augment is \['crop'\]"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs is 0, expected a whole number of 1 or more"),
        ({"average": 1.0}, "average is 1.0, expected a number of 0 to below 1"),
        ({"image_size": (4, 4)}, "expected a height and a width of 8 to 4096"),
        ({"class_weights": 1}, "class_weights is 1, expected true or false"),
        ({"augment": {"flip": 1}}, "expected a table of names with their arguments"),
        ({"left_out": -1}, "left_out is -1"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"channels": True}, "channels is True, expected 1 or 3"),
    ],
)
def test_values_of_the_wrong_kind_are_named(values, words):
    with pytest.raises(DataError, match=words):
        RunConfig("digits", **values)


def test_every_field_is_checked_or_of_a_kind_of_its_own():
    from imgrec_engine.train.config import _EXPECTED

    assert {field.name for field in dataclasses.fields(RunConfig)} == set(_EXPECTED)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ({"blur": {}}, "augment: 'blur' is not known; there are crop, flip"),
        ({"affine": {"angle": 3}}, "augment.affine: there is no argument 'angle'; there are degrees"),
        ({"erase": {"p": 2}}, "augment.erase: RandomErasing: p must be a number in 0.0 .. 1.0"),
        ({"mixup": {"alpha": "x"}}, "Mixing: mixup"),
    ],
)
def test_wrong_augmentations_are_named(augment, words, photos, tmp_path):
    with pytest.raises(DataError, match=words):
        Run.start(tmp_path / "x", RunConfig(str(photos), augment=augment))
    assert not (tmp_path / "x").exists()


def test_every_name_alone_does_something():
    images = np.random.default_rng(0).random((8, 16, 16, 3), np.float32)
    for name in augmentations.NAMES:
        transforms, mixing = augmentations.build(augmentations.standard([name]), (16, 16))
        for transform in transforms:
            changed = transform.batch(images, [item_generator(0, 0, index) for index in range(8)])
            assert not np.array_equal(changed, images), name
        assert (mixing is not None) == (name in augmentations.MIXINGS)


def test_strength_scales_amounts():
    augment = {"crop": {"padding": 4}, "flip": {"p": 0.5}, "color": {"contrast": 0.8}, "mixup": {"alpha": 0.2}}
    assert strengthened(augment, 1.5) == {
        "crop": {"padding": 6},
        "flip": {"p": 0.5},
        "color": {"contrast": 1.0},
        "mixup": {"alpha": pytest.approx(0.3)},
    }
    assert strengthened(augment, 1.0) == augment


def test_event_files_lie_beside_the_metrics(whole):
    pytest.importorskip("tensorboardX")
    assert list(whole.glob("events.out.tfevents.*"))


def test_half_a_line_of_measurements_is_dropped(whole, tmp_path):
    from imgrec_engine.train.events import Measurements

    lines = (whole / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(lines + '{"epoch": 7, "train')
    measurements = Measurements(tmp_path)
    measurements.keep(2)
    assert [record["epoch"] for record in measurements.read()] == [1, 2]
