"""Reading strings: digits side by side are learned, stopped, resumed, exported and read from files; what is refused."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import models, nn
from imgrec_engine.cli import main
from imgrec_engine.data import ArrayDataset, ConcatDataset, DataLoader, Dataset, Mixing, Subset, load, read_npz, split
from imgrec_engine.errors import DataError, ModelError
from imgrec_engine.metrics import TranscriptEvaluation, edit_distance
from imgrec_engine.train import Recogniser, Run, RunConfig, Trainer
from imgrec_engine.train.defaults import choose
from imgrec_engine.train.tasks import Classification, Transcription, task_of

LONGEST = 3
CLASSES = "01234"
SETTINGS = {
    "model": "crnn",
    "model_arguments": {"width": 8, "hidden_size": 32, "dropout": 0.1},
    "epochs": 9,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "average": 0.9,
    "augment": {"color": {"contrast": 0.2}},
}


def strings(count, part, seed):
    """One to three digits side by side, somewhere in an image of 8 x 28: images, and labels filled up with -1."""
    digits, generator = load("digits", part), np.random.default_rng(seed)
    pictures = (np.stack([image for image, _ in digits]) * 255).astype(np.uint8)
    few = np.flatnonzero(digits.labels < len(CLASSES))
    images, labels = np.zeros((count, 8, 8 * LONGEST + 4, 1), np.uint8), np.full((count, LONGEST), -1)
    for n in range(count):
        chosen = generator.choice(few, generator.integers(1, LONGEST + 1))
        left = generator.integers(images.shape[2] - 8 * len(chosen) + 1)
        images[n, :, left : left + 8 * len(chosen)] = np.concatenate(list(pictures[chosen]), axis=1)
        labels[n, : len(chosen)] = digits.labels[chosen]
    return images, labels


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("sklearn")
    place = tmp_path_factory.mktemp("data") / "strings.npz"
    (images, labels), (test_images, test_labels) = strings(320, "train", 0), strings(60, "test", 1)
    np.savez(
        place, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels,
        classes=np.array(list(CLASSES)),
    )  # fmt: skip
    return place


def ignore(kind, what):
    pass


@pytest.fixture(scope="module")
def whole(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert Run.start(folder, RunConfig(str(written), **SETTINGS)).fit(ignore) == 0
    return folder


# --- metrics ----------------------------------------------------------------------------------------------------------


def recursive_distance(first, second):
    """The definition."""
    if not first or not second:
        return len(first) + len(second)
    replaced = recursive_distance(first[1:], second[1:]) + (first[0] != second[0])
    return min(replaced, 1 + recursive_distance(first[1:], second), 1 + recursive_distance(first, second[1:]))


def test_edit_distance_is_its_definition():
    generator = np.random.default_rng(0)
    for _ in range(60):
        first, second = (generator.integers(0, 3, generator.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(first, second) == recursive_distance(first, second) == edit_distance(second, first)


def test_figures_of_what_was_read():
    read = np.array([[4, 2, -1, -1], [4, 4, 2, -1], [-1, -1, -1, -1], [1, 2, 3, 0]])
    labels = np.array([[4, 2, -1], [4, 2, -1], [0, -1, -1], [1, 2, 3]])
    evaluation = TranscriptEvaluation(0.5, read, labels)
    assert evaluation.accuracy == 0.25
    assert evaluation.character_error_rate == pytest.approx(3 / 8)
    report = evaluation.report(CLASSES)
    assert "misread: 3 of 4 strings" in report
    assert "item 1: 42 was read as 442\nitem 2: 0 was read as nothing\n" in report
    assert "character error rate 0.3750, 4 images" in report
    spelled = TranscriptEvaluation(0.5, read[:2] // 2, labels[:2] // 2).report(["zero", "one", "two"])
    assert "item 1: two one was read as two two one" in spelled
    empty = TranscriptEvaluation(0.0, read[:0], labels[:0])
    assert np.isnan(empty.accuracy)
    assert np.isnan(empty.character_error_rate)
    assert "and 5 more" in TranscriptEvaluation(0.0, np.zeros((25, 1), int), np.ones((25, 1), int)).report("ab")


# --- the task ---------------------------------------------------------------------------------------------------------


def test_a_model_names_its_task():
    assert isinstance(task_of(models.create("crnn", image_size=8)), Transcription)
    assert isinstance(task_of(models.create("cnn", image_size=8)), Classification)
    assert isinstance(task_of(nn.Linear(2, 2)), Classification)
    assert {name for name in models.names() if models.task(name) == "transcription"} == {"crnn"}


def test_the_loss_is_that_of_each_string_alone(device):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(2, 5, 4)), np.array([[2, 2, 1], [0, -1, -1]])
    loss = Transcription().loss(ie.tensor(logits, device=device), ie.tensor(labels, device=device)).item()
    alone = [
        F.ctc_loss(F.log_softmax(ie.tensor(logits[n : n + 1])), ie.tensor([string]), blank=3).item()
        for n, string in enumerate(([2, 2, 1], [0]))
    ]
    assert loss == pytest.approx(np.mean(alone), rel=1e-12)


def test_answers_predictions_and_their_probabilities():
    """Two steps: the likeliest path is blank twice, though three of the four others say "a"."""
    task = Transcription()
    probabilities = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.4, 0.6], [0.4, 0.6]]], np.float32)
    np.testing.assert_array_equal(task.answers(probabilities), [[0, -1], [-1, -1]])
    first, second = task.predictions(probabilities, ["a"])
    assert (first.label, second.label) == ("a", "")
    assert first.score == pytest.approx(1 - 0.1 * 0.9)
    assert second.score == pytest.approx(0.36)
    assert task.correct(probabilities, np.array([[0], [0]])) == 1
    certain = np.array([[[1.0, 0.0, 0.0]]], np.float32)
    assert task.predictions(certain, ["a", "b"])[0].score == pytest.approx(1)


def test_a_trainer_takes_the_loss_of_the_model():
    ie.manual_seed(0)
    model = models.create("crnn", num_classes=2, in_channels=1, image_size=(8, 16), width=4, hidden_size=8)
    trainer = Trainer(model, ie.optim.AdamW(model.parameters(), lr=1e-2))
    images, labels = ie.rand(4, 8, 16, 1), ie.tensor([[0, 1], [1, -1], [1, 1], [0, -1]])
    losses = [trainer.train_batch(images, labels).item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    evaluation = trainer.evaluate([(images, labels)])
    assert evaluation.transcripts.shape == (4, 4)
    assert len(trainer.evaluate([]).transcripts) == 0


# --- runs -------------------------------------------------------------------------------------------------------------


def test_strings_of_digits_are_learned(whole):
    *epochs, test = (json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines())
    assert test["test_accuracy"] >= 0.85
    assert 0 < test["test_character_error_rate"] < 0.1
    assert epochs[0]["validation_accuracy"] < 0.5 < epochs[-1]["validation_accuracy"]
    assert (whole / "curves.png").exists()
    assert not (whole / "confusion.png").exists()


@pytest.mark.parametrize("stops", [(7,), (20, 19)])
def test_a_run_continues_to_the_same_bits(stops, whole, written, tmp_path):
    run = Run.start(tmp_path / "x", RunConfig(str(written), **SETTINGS))
    for stop in stops:
        seen = 0

        def report(kind, what, stop=stop):
            nonlocal seen
            seen += kind == "batch"
            if seen == stop:
                signal.raise_signal(signal.SIGTERM)

        assert run.fit(report) == 143
        run = Run.resume(tmp_path / "x")
    assert run.fit(ignore) == 0
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "x" / name).read_bytes() == (whole / name).read_bytes()


def test_the_commands_evaluate_and_predict(whole, tmp_path, capsys):
    assert main(["evaluate", str(whole)]) == 0
    assert "character error rate" in capsys.readouterr().out
    images, labels = strings(12, "test", 1)
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number:02}.png")
    assert main(["predict", str(whole), str(tmp_path), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = ["".join(CLASSES[k] for k in row if k >= 0) for row in labels]
    assert np.mean([a["label"] == b for a, b in zip(found, written, strict=True)]) >= 0.7
    assert all(0 < line["score"] <= 1 for line in found)
    assert main(["predict", str(whole), str(tmp_path / "00.png"), "--top", "3"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/00.png: {found[0]['label']} {found[0]['score']:.4f}\n"
    assert main(["predict", str(whole), str(tmp_path / "00.png"), "--explain", str(tmp_path / "why")]) == 2
    assert "explain: CRNN gives (1, 7, 6) for one image; only models that give it one class" in capsys.readouterr().err
    assert not (tmp_path / "why").exists()


def test_a_recogniser_takes_any_number_of_images(whole):
    recogniser = Recogniser.load(whole)
    images, _ = strings(5, "test", 1)
    assert recogniser.predict([]) == []
    assert recogniser.probabilities(images).shape == (5, 7, 6)
    assert [p.label for p in recogniser.predict(images)] == [recogniser.predict([i])[0].label for i in images]


def test_the_command_exports_and_compares_strings(whole, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", str(whole), str(tmp_path / "model.onnx")]) == 0
    assert "on 60 samples: string equal on 60, outputs differ by " in capsys.readouterr().out
    images, _ = strings(4, "test", 1)
    (logits,) = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"images": images})
    recogniser = Recogniser.load(whole)
    np.testing.assert_array_equal(
        Transcription().answers(logits), Transcription().answers(recogniser.probabilities(images))
    )
    answers = Transcription.answers
    seen = []
    monkeypatch.setattr(Transcription, "answers", lambda *given: seen.append(1) or answers(*given) + (len(seen) % 2))
    assert main(["export", str(whole), str(tmp_path / "wrong.onnx")]) == 2
    assert "does not recognise what the model does" in capsys.readouterr().err


# --- data -------------------------------------------------------------------------------------------------------------


def four():
    return ArrayDataset(np.arange(4 * 128, dtype=np.uint8).reshape(4, 8, 16), [[0, 1], [1, -1], [-1, -1], [1, 1]], "ab")


def test_items_carry_strings():
    dataset = four()
    assert dataset[0][1].tolist() == [0, 1]
    for view in (dataset, Subset(dataset, [3, 1]), ConcatDataset([dataset, dataset])):
        assert view.labels.shape == (len(view), 2)
        images, labels = view.gather([1, 0])
        np.testing.assert_array_equal(labels, view.labels[[1, 0]])
        assert len(images) == 2
    batches = [labels for _, labels in DataLoader(dataset, 3)]
    assert [batch.shape for batch in batches] == [(3, 2), (1, 2)]
    assert batches[0].dtype == np.int64
    rest, held_out = split(dataset, 0.25)
    assert (len(rest), len(held_out)) == (3, 1)
    assert sorted([*rest.indices, *held_out.indices]) == [0, 1, 2, 3]


def test_a_users_set_of_strings():
    class Listed(Dataset):
        classes = ("a", "b")
        strings = ([0, 1], [1, -1], [0])

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.zeros((8, 8, 1), np.uint8), np.array(self.strings[index])

    assert Listed().gather([0, 1])[1].tolist() == [[0, 1], [1, -1]]
    with pytest.raises(DataError, match=r"item 2 could not be loaded: its label has the shape \(1,\), others \(2,\)"):
        Listed().gather([0, 2])


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([[0, -1], [-1, 1]], "-1, which fills strings up, before the end of one"),
        ([[0, 1], [0, 2]], r"0 \.\. 1 for 2 classes"),
        ([[0, -2], [0, 1]], "from -2 to 1"),
        (np.zeros((2, 0), int), r"or \(2, S\), a string per image, not \(2, 0\)"),
        (np.zeros((2, 2, 2), int), r"not \(2, 2, 2\)"),
    ],
)
def test_wrong_strings_are_named(labels, says):
    with pytest.raises(DataError, match=says):
        ArrayDataset(np.zeros((2, 8, 8), np.uint8), labels, "ab")


def test_files_of_strings_name_their_classes(tmp_path):
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.eye(4, dtype=np.int64)}
    np.savez(tmp_path / "one-hot.npz", **arrays)
    with pytest.raises(DataError, match=r"labels of shape \(4, 4\) are strings only where an array 'classes'"):
        read_npz(tmp_path / "one-hot.npz")
    np.savez(tmp_path / "named.npz", **arrays, classes=np.array(["a", "b"]))
    assert read_npz(tmp_path / "named.npz")["all"].labels.shape == (4, 4)
    assert [len(load(tmp_path / "named.npz", part)) for part in ("train", "test")] == [3, 1]


def test_strings_are_not_mixed():
    with pytest.raises(DataError, match=r"Mixing: the labels are strings, \(4, 2\)"):
        next(iter(DataLoader(four(), 4, mixing=Mixing(mixup=0.2))))


def test_captchas(tmp_path):
    try:
        train, test = load("captcha-digits"), load("captcha-digits", "test")
    except DataError as error:
        pytest.skip(str(error))
    assert (len(train), len(test), train.image_shape, train.classes) == (1600, 200, (24, 104, 3), tuple("0123456789"))
    assert (train.labels.shape, train.labels.min(), train.labels.max()) == ((1600, 4), 0, 9)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing is for one class an image; the model 'crnn' reads strings"),
        ({"class_weights": True}, "class_weights is for one class an image"),
        ({"merge": {"x": ("0", "1")}}, "merge is for one class an image"),
        ({"augment": {"cutmix": {}}}, "cutmix is for one class an image"),
        ({"model": "cnn", "model_arguments": {}}, "has a string for each image, which the model 'cnn' does not read"),
        ({"data": "digits"}, "digits has a class for each image, but the model 'crnn' reads strings"),
        ({"image_size": (8, 16)}, "a string needs 5 steps, one more for each repetition, but 'crnn' has 4"),
    ],
)
def test_what_is_for_the_other_task_is_refused(changes, says, written, tmp_path):
    with pytest.raises(DataError, match=says):
        Run.start(tmp_path / "x", RunConfig(**{"data": str(written), **SETTINGS, **changes}))
    assert not (tmp_path / "x").exists()


def test_a_reader_is_not_explained():
    recogniser = Recogniser(
        models.create("crnn", num_classes=2, in_channels=1, image_size=8),
        "ab",
        ie.data.Preprocessing((8, 8), 1, (0,), (1,)),
    )
    with pytest.raises(ModelError, match="only models that give it one class"):
        recogniser.explain(np.zeros((8, 8, 1), np.uint8))


def test_defaults_for_strings():
    images, labels = np.zeros((20, 48, 96, 3), np.uint8), np.zeros((20, 4), int)
    chosen = {choice.name: choice.value for choice in choose(ArrayDataset(images, labels, "ab"), {})}
    assert chosen["model"] == "crnn"
    assert chosen["image_size"] == (32, 64)
    assert set(chosen["augment"]) == {"affine"}
    assert not {"label_smoothing", "class_weights"} & set(chosen)
    assert "image_size" not in {choice.name for choice in choose(ArrayDataset(images[:, :24], labels, "ab"), {})}
