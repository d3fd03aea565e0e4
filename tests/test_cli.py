"""The command line, run as a person runs it: what it prints, what it leaves behind, and how it ends."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from imgrec_engine import checkpoint, device
from imgrec_engine.cli import main

QUICK = ["--epochs", "2", "--image-size", "12", "--batch-size", "16", "--augment", "none"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes that a small model tells apart at once: bright tops and bright bottoms."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.Generator(np.random.Philox(3))
    for name in ("bottom", "top"):
        (folder / name).mkdir()
        for number in range(24):
            image = generator.integers(0, 60, (14 + number % 3, 16, 3), dtype=np.uint8)
            half = slice(0, 7) if name == "top" else slice(7, None)
            image[half] += 150
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    assert main(["train", str(photos), "--out", str(out), "--epochs", "6", *QUICK[2:]]) == 0
    return out


def error_of(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_run_holds_everything(run):
    names = {entry.name for entry in run.iterdir()}
    assert {"config.json", "metrics.jsonl", "best.safetensors", "last.safetensors"} <= names
    assert {"curves.png", "confusion.png"} <= names
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 0
    assert config["model"] == "cnn"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records[:-1]] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["test_accuracy"] >= 0.9


def test_predict_walks_folders_and_prints_json(run, photos, capsys):
    (photos / "top" / "notes.txt").write_text("no image")
    try:
        assert main(["predict", str(run), str(photos / "top"), str(photos / "bottom" / "3.png"), "--json"]) == 0
    finally:
        (photos / "top" / "notes.txt").unlink()
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines) == 25
    assert sum(line["label"] == "top" for line in lines[:24]) >= 22
    assert lines[-1]["label"] == "bottom"
    assert lines[0].keys() == {"path", "label", "score", "top"}
    assert len(lines[0]["top"]) == 1
    assert "notes.txt" in captured.err


def test_the_device_is_chosen_and_checked(run, photos, tmp_path, capsys):
    scores = []
    for name in device.names():
        assert main(["predict", str(run), str(photos / "top" / "0.png"), "--device", name, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["score"])
    np.testing.assert_allclose(scores, scores[0], rtol=1e-4)
    for command in (
        ["predict", run, photos / "top" / "0.png"],
        ["evaluate", run],
        ["train", photos, "--out", tmp_path],
    ):
        assert "device 'gpu' is not available" in error_of([*command, "--device", "gpu"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_predict_top_scores_add_up(run, photos, capsys):
    assert main(["predict", str(run), str(photos / "top" / "0.png"), "--top", "2", "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert [entry["label"] for entry in top] == ["top", "bottom"]
    assert abs(sum(entry["score"] for entry in top) - 1) < 1e-5


def test_evaluate_prints_classes_and_confusion(run, photos, capsys):
    assert main(["evaluate", str(run)]) == 0
    text = capsys.readouterr().out
    assert "bottom" in text
    assert "confusion matrix" in text
    assert main(["evaluate", str(run), str(photos), "--split", "all"]) == 0
    assert "48 images" in capsys.readouterr().out


def test_the_same_run_again_gives_the_same_bits(photos, run, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        assert main(["train", str(photos), "--out", str(out), "--model", "cnn_lstm", *QUICK]) == 0
    assert (first / "best.safetensors").read_bytes() == (second / "best.safetensors").read_bytes()
    assert (first / "last.safetensors").read_bytes() == (second / "last.safetensors").read_bytes()


def test_an_interrupted_run_resumes_to_the_same_bits(photos, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = ["--model", "cnn", *QUICK, "--epochs", "150"]
    assert main(["train", str(photos), "--out", str(whole), *arguments]) == 0
    command = [sys.executable, "-m", "imgrec_engine.cli", "train", str(photos), "--out", str(stopped), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
    assert (stopped / "last.safetensors").exists()
    assert main(["train", "--resume", str(stopped)]) == 0
    assert (whole / "last.safetensors").read_bytes() == (stopped / "last.safetensors").read_bytes()
    assert (whole / "best.safetensors").read_bytes() == (stopped / "best.safetensors").read_bytes()
    epochs = [json.loads(line).get("epoch") for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [*range(1, 151), None]


def test_bad_folders_are_named(tmp_path, photos, capsys):
    assert "nowhere" in error_of(["train", tmp_path / "nowhere", "--out", tmp_path / "o"], capsys)
    (tmp_path / "empty").mkdir()
    assert "empty" in error_of(["train", tmp_path / "empty", "--out", tmp_path / "o"], capsys)
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(one / "cat" / "a.png")
    assert "one" in error_of(["train", one, "--out", tmp_path / "o"], capsys)
    assert "DATA is missing" in error_of(["train"], capsys)
    assert "not_a_model" in error_of(["train", photos, "--model", "not_a_model", "--out", tmp_path / "o"], capsys)
    assert not (tmp_path / "o").exists()


def test_training_in_16_bits(photos, tmp_path):
    command = ["train", str(photos), "--out", str(tmp_path / "x"), "--precision", "float16", *QUICK]
    assert main(command) == 0
    assert json.loads((tmp_path / "x" / "config.json").read_text())["precision"] == "float16"
    tensors, metadata = checkpoint.load(tmp_path / "x" / "last.safetensors")
    assert metadata["training"]["scaler"]["scale"] > 0
    assert "float16" not in {tensor.dtype.name for tensor in tensors.values()}


def test_too_few_images_are_refused_and_few_are_trained_on_for_longer(photos, tmp_path, capsys):
    few = tmp_path / "few"
    for name in ("bottom", "top"):
        (few / name).mkdir(parents=True)
        for number in range(4):
            (few / name / f"{number}.png").write_bytes((photos / name / f"{number}.png").read_bytes())
    (few / "top" / "3.png").rename(tmp_path / "3.png")
    (few / "top" / "2.png").rename(tmp_path / "2.png")
    (few / "top" / "1.png").rename(tmp_path / "1.png")
    assert "too few images" in error_of(["train", few, "--out", tmp_path / "a"], capsys)
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").rename(few / "top" / f"{number}.png")
    assert main(["train", str(few), "--out", str(tmp_path / "b"), "--image-size", "12"]) == 0
    text = capsys.readouterr().out
    assert "4 images to train on, 2 to validate, 2 to test" in text
    assert "epoch 100/100" in text


def test_a_folder_that_holds_a_run_is_left_alone(run, photos, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert "already exists" in error_of(["train", photos, "--out", run, *QUICK], capsys)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_strict_stops_at_a_bad_image_that_is_skipped_and_counted_otherwise(photos, tmp_path, capsys):
    bad = photos / "top" / "truncated.png"
    bad.write_bytes((photos / "top" / "0.png").read_bytes()[:80])
    try:
        assert "truncated.png" in error_of(["train", photos, "--out", tmp_path / "a", "--strict", *QUICK], capsys)
        assert main(["train", str(photos), "--out", str(tmp_path / "b"), *QUICK]) == 0
        assert "skipped 1 files" in capsys.readouterr().err
    finally:
        bad.unlink()


def test_bad_checkpoints_are_named(run, photos, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    content = bytearray((run / "best.safetensors").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (damaged / "best.safetensors").write_bytes(content)
    assert "best.safetensors" in error_of(["predict", damaged, photos / "top" / "0.png"], capsys)
    assert "last.safetensors" in error_of(["predict", run / "last.safetensors", photos / "top" / "0.png"], capsys)
    assert "classes" in error_of(["evaluate", run, "digits"], capsys)
    assert str(tmp_path) in error_of(["train", "--resume", tmp_path], capsys)


def test_predict_without_a_single_image_fails(run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    assert "a.txt: not an image" in error_of(["predict", run, tmp_path], capsys)
    (tmp_path / "b.png").write_bytes(b"")
    assert "no image in" in error_of(["predict", run, tmp_path], capsys)
    assert "absent.png" in error_of(["predict", run, tmp_path / "absent.png"], capsys)


def test_giant_images_are_refused_by_their_header(run, tmp_path, capsys):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "giant.png")
    start = time.monotonic()
    assert "giant.png" in error_of(["predict", run, tmp_path / "giant.png"], capsys)
    assert time.monotonic() - start < 2


def test_skipped_images_are_counted_in_one_line(run, photos, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.png").write_bytes(b"")
    assert main(["predict", str(run), str(tmp_path), str(photos / "top" / "0.png")]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert len(shown.err.splitlines()) == 1
    assert "skipped 2 files" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "x"], "--epochs: 'x' is not a whole number of 1 or more"),
        (["--batch-size", "0"], "--batch-size: '0' is not"),
        (["--learning-rate", "nan"], "--learning-rate: 'nan' is not"),
        (["--label-smoothing", "2"], "--label-smoothing: '2' is not"),
        (["--seed", "-1"], "--seed: '-1' is not"),
        (["--image-size", "1x1"], "--image-size"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_arguments_take_one_line(arguments, words, photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(photos), "--out", str(tmp_path / "o"), *arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_made_is_named(photos, capsys):
    inside_a_file = photos / "top" / "0.png" / "run"
    assert "0.png" in error_of(["train", photos, "--out", inside_a_file, *QUICK], capsys)


def test_what_is_no_data_set_is_named(photos, tmp_path, capsys):
    photo = photos / "top" / "0.png"
    assert "neither an npz file" in error_of(["train", photo, "--out", tmp_path / "o"], capsys)


def test_resume_takes_the_run_from_out_and_refuses_other_settings(run, photos, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    before = (again / "best.safetensors").read_bytes()
    assert "has model 'cnn', not 'lstm'" in error_of(["train", "--out", again, "--resume", "--model", "lstm"], capsys)
    assert "has epochs 6, not 7" in error_of(["train", f"{photos}/", "--resume", again, "--epochs", "7"], capsys)
    assert main(["train", f"{photos}/", "--out", str(again), "--resume"]) == 0
    assert (again / "best.safetensors").read_bytes() == before
    assert "--resume needs a run" in error_of(["train", "--resume"], capsys)


def test_lists(capsys):
    for command, words in (("models", "cnn_lstm"), ("datasets", "digits"), ("info", "device cpu")):
        assert main([command]) == 0
        assert words in capsys.readouterr().out
