"""Answers over all ways round in which images may lie."""

import json

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import checkpoint
from imgrec_engine.data import ArrayDataset, Preprocessing
from imgrec_engine.errors import CheckpointError, DataError
from imgrec_engine.train import Recogniser, Run, RunConfig
from imgrec_engine.train.symmetries import Symmetric, ways

SQUARE = ["flip", "flip_vertical", "rotate90"]


def model(name="cnn", size=12, **options):
    ie.manual_seed(0)
    return ie.models.create(name, num_classes=2, in_channels=1, image_size=size, **options).eval()


def recogniser(symmetries=("flip", "rotate90")):
    return Recogniser(model(), ("no", "yes"), Preprocessing((12, 12), 1, (0.4,), (0.2,)), symmetries)


def photos(count=3, size=12):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


@pytest.mark.parametrize(
    ("symmetries", "count"),
    [
        ([], 1),
        (["flip"], 2),
        (["flip"] * 2, 2),
        (["flip_vertical"], 2),
        (["flip", "flip_vertical"], 4),
        (["rotate90"], 4),
        (SQUARE, 8),
    ],
)
def test_the_ways_are_a_group_and_the_mean_over_them_does_not_change_with_the_way(symmetries, count):
    network = Symmetric(model(), symmetries)
    assert len(set(ways(symmetries))) == len(ways(symmetries)) == count
    x = np.random.default_rng(1).random((2, 12, 12, 1), np.float32)
    turned = {"flip": x[:, :, ::-1], "flip_vertical": x[:, ::-1], "rotate90": np.rot90(x, axes=(1, 2))}
    plain = network(ie.tensor(x)).numpy()
    for name in symmetries:
        np.testing.assert_allclose(network(ie.tensor(turned[name].copy())).numpy(), plain, rtol=1e-5, atol=1e-6)
    for name in {*turned} - {*symmetries}:
        assert not np.allclose(network(ie.tensor(turned[name].copy())).numpy(), plain, rtol=1e-3)


def test_clips_turn_frame_by_frame():
    network = Symmetric(model("video_lstm"), ["flip"])
    x = np.random.default_rng(1).random((1, 3, 12, 12, 1), np.float32)
    other = network(ie.tensor(x[:, :, :, ::-1].copy())).numpy()
    np.testing.assert_allclose(network(ie.tensor(x)).numpy(), other, rtol=1e-5, atol=1e-6)


def test_what_a_recogniser_says_does_not_depend_on_the_way_round(tmp_path):
    images = photos()
    plain, symmetric = recogniser(()), recogniser()
    np.testing.assert_allclose(symmetric.probabilities(images), symmetric.probabilities(images[:, :, ::-1]), atol=1e-6)
    assert not np.allclose(plain.probabilities(images), plain.probabilities(images[:, :, ::-1]), atol=1e-4)
    symmetric.save(tmp_path / "best.safetensors")
    loaded = Recogniser.load(tmp_path)
    np.testing.assert_array_equal(loaded.probabilities(images), symmetric.probabilities(images))
    labelled = ArrayDataset(images, np.array([0, 1, 0]), ("no", "yes"))
    np.testing.assert_allclose(loaded.evaluate(labelled).probabilities, symmetric.probabilities(images), atol=1e-6)
    explanation, prediction = loaded.explain(images[0]), loaded.predict(images[:1])[0]
    assert (explanation.label, pytest.approx(explanation.probability)) == (prediction.label, prediction.score)


def test_an_exported_file_takes_the_same_mean(tmp_path):
    pytest.importorskip("onnxruntime")
    labelled = ArrayDataset(photos(), np.array([0, 1, 0]), ("no", "yes"))
    parity = ie.onnx.export_recogniser(recogniser(), tmp_path / "model.onnx", labelled)
    assert (parity.same_top, parity.samples) == (3, 3)
    assert parity.difference < 1e-5


def test_a_run_judges_validation_and_test_by_the_mean(tmp_path):
    images, labels = photos(40), np.arange(40) % 2
    np.savez(tmp_path / "set.npz", images=images, labels=labels, split=np.arange(40) % 4 == 0)
    config = RunConfig(str(tmp_path / "set.npz"), epochs=1, validation=0.25, symmetries=("flip", "rotate90"))
    run = Run.start(tmp_path / "run", config)
    assert run.fit(lambda kind, what: None) == 0
    first, last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    loaded = Recogniser.load(tmp_path / "run")
    assert loaded.symmetries == config.symmetries
    assert loaded.evaluate(run.validation).loss == pytest.approx(first["validation_loss"], rel=1e-6)
    assert loaded.evaluate(run.test).loss == pytest.approx(last["test_loss"], rel=1e-6)
    assert Run.check_settings(tmp_path / "run", {"symmetries": ("flip", "rotate90")}) == config


def test_what_has_no_such_symmetry_is_refused(tmp_path):
    with pytest.raises(DataError, match="symmetries: 'turn' is not known; there are flip, flip_vertical, rotate90"):
        Symmetric(model(), ["turn"])
    with pytest.raises(DataError, match="'rotate90' is for images as high as wide, but these are 12 x 16"):
        Symmetric(model(size=(12, 16)), ["rotate90"])
    with pytest.raises(DataError, match="symmetries: flip is for one class an image, not for strings"):
        Symmetric(model("crnn", size=(16, 48)), ["flip"])
    for wrong in ("flip", ["flip"], ("turn",), ("flip", "flip"), (["flip"],)):
        with pytest.raises(DataError, match="expected a tuple of some of flip, flip_vertical, rotate90, each once"):
            RunConfig("digits", symmetries=wrong)
    recogniser().save(tmp_path / "best.safetensors")
    tensors, metadata = checkpoint.load(tmp_path / "best.safetensors")
    checkpoint.save(tmp_path / "best.safetensors", tensors, metadata | {"symmetries": ["turn"]})
    with pytest.raises(CheckpointError, match="'turn' is not known"):
        Recogniser.load(tmp_path)


def test_what_was_written_before_there_were_symmetries_has_none(tmp_path):
    recogniser(()).save(tmp_path / "best.safetensors")
    tensors, metadata = checkpoint.load(tmp_path / "best.safetensors")
    del metadata["symmetries"]
    checkpoint.save(tmp_path / "best.safetensors", tensors, metadata)
    assert Recogniser.load(tmp_path).symmetries == ()
    described = RunConfig("digits").to_json()
    del described["symmetries"]
    assert RunConfig.from_json(described).symmetries == ()
