"""Explanations: heat where the class is, how it is drawn, and what the command line leaves behind."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import models, nn, optim
from imgrec_engine.cli import main
from imgrec_engine.data import Preprocessing
from imgrec_engine.errors import ModelError
from imgrec_engine.train import Explanation, Recogniser, explain
from imgrec_engine.train.explain import heat_map, rollout
from imgrec_engine.train.overlay import COLOURS, colours, overlay

METHODS = {
    "cnn": "Grad-CAM",
    "cnn_attention": "Grad-CAM",
    "cnn_lstm": "Grad-CAM",
    "resnet10": "Grad-CAM",
    "resnet20": "Grad-CAM",
    "resnet18": "Grad-CAM",
    "resnet_max": "Grad-CAM",
    "video_attention": "Grad-CAM",
    "video_lstm": "Grad-CAM",
    "attention": "attention rollout",
    "lstm": "integrated gradients",
    "lstm_attention": "integrated gradients",
    "rnn": "integrated gradients",
}


def patches(count, side, seed):
    """Noise with a square in one quadrant; whether it is dark or bright is the class. Images, labels, the quadrants."""
    generator = np.random.Generator(np.random.Philox(seed))
    images = generator.normal(0.5, 0.05, (count, side, side, 1)).astype(np.float32)
    labels, inside, half = np.arange(count) % 2, np.zeros((count, side, side), bool), side // 2
    for n, (row, column) in enumerate(generator.integers(0, 2, (count, 2)) * half):
        images[n, row + 1 : row + half - 1, column + 1 : column + half - 1] += 0.8 * labels[n] - 0.4
        inside[n, row : row + half, column : column + half] = True
    return images.clip(0, 1), labels, inside


def as_clips(images, seed):
    """Each image as one of four frames, the others noise; and which one it is."""
    generator = np.random.Generator(np.random.Philox(seed))
    clips = generator.normal(0.5, 0.05, (len(images), 4, *images.shape[1:])).astype(np.float32)
    places = generator.integers(0, 4, len(images))
    clips[np.arange(len(images)), places] = images
    return clips.clip(0, 1), places


def trained(name, side, images, labels, steps):
    """A recogniser that tells dark squares from bright ones."""
    ie.manual_seed(0)
    preprocessing = Preprocessing((side, side), 1, (0.5,), (0.2,))
    model = models.create(name, num_classes=2, in_channels=1, image_size=side)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    prepared = preprocessing.compose().batch(images, [])
    for step in range(steps):
        chosen = np.arange(32) + 32 * (step % 3)
        loss = F.cross_entropy(model(ie.tensor(prepared[chosen])), ie.tensor(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Recogniser(model, ("dark", "bright"), preprocessing)


def means(explanations, inside):
    """Mean heat inside the squares' quadrants, and outside."""
    heat = np.stack([explanation.heat for explanation in explanations])
    return heat[inside].mean(), heat[~inside].mean()


@pytest.mark.parametrize(
    ("name", "side", "steps"),
    [("cnn", 32, 40), ("cnn_attention", 32, 40), ("cnn_lstm", 32, 40), ("attention", 32, 40), ("lstm", 16, 60),
     ("lstm_attention", 16, 60), ("rnn", 16, 60)],
)  # fmt: skip
def test_the_heat_is_where_the_class_is(name, side, steps, monkeypatch):
    images, labels, _ = patches(96, side, seed=1)
    recogniser = trained(name, side, images, labels, steps)
    images, labels, inside = patches(8, side, seed=2)
    if name in ("lstm", "lstm_attention", "rnn"):  # they read whole rows
        inside = inside | inside.any(axis=2, keepdims=True)
    explanations = [recogniser.explain(image) for image in images]
    assert [explanation.label for explanation in explanations] == [recogniser.classes[label] for label in labels]
    assert {explanation.method for explanation in explanations} == {METHODS[name]}
    within, without = means(explanations, inside)
    assert within > 3 * without

    if name == "attention":  # from the patches that are attended to, to those that attend
        weights = nn.MultiheadAttention.weights
        monkeypatch.setattr(nn.MultiheadAttention, "weights", lambda *given: weights(*given).transpose(-1, -2))
    else:  # what speaks for the other class
        gradient = explain.grad
        monkeypatch.setattr(explain, "grad", lambda *given: [gradient(*given)[0] * -1])
    within, without = means([recogniser.explain(image) for image in images], inside)
    assert within <= without


def test_the_heat_of_a_clip_is_in_its_frame():
    images, labels, _ = patches(96, 16, seed=1)
    recogniser = trained("video_lstm", 16, as_clips(images, 3)[0], labels, steps=60)
    images, _, inside = patches(8, 16, seed=2)
    clips, places = as_clips(images, 4)
    shown = np.zeros(clips.shape[:-1], bool)
    shown[np.arange(8), places] = inside
    explanations = [recogniser.explain(clip) for clip in clips]
    assert explanations[0].heat.shape == (4, 16, 16)
    within, without = means(explanations, shown)
    assert within > 3 * without
    assert [explanation.heat.max(axis=(1, 2)).argmax() for explanation in explanations] == places.tolist()


def test_only_models_that_read_strings_are_not_explained():
    assert {name for name in models.names() if models.task(name) == "transcription"} == {*models.names()} - {*METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_every_model_is_explained(name):
    model = models.create(name, num_classes=3, in_channels=1, image_size=(13, 22))
    clip = (2,) if name.startswith("video_") else ()
    image = np.random.default_rng(0).random((*clip, 13, 22, 1), np.float32)
    heat, method = heat_map(model, image, (50, 70), 1)
    assert method == METHODS[name]
    assert heat.shape == (*clip, 50, 70)
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1
    assert heat.max() in (0, 1)
    np.testing.assert_array_equal(heat_map(model.requires_grad_(False), image, (50, 70), 1).heat, heat)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grad_cam_of_a_linear_classifier_is_its_class_activation_map():
    model = models.create("cnn", num_classes=3, in_channels=1, image_size=16).eval()
    image = np.random.default_rng(0).random((16, 16, 1), np.float32)
    x = ie.tensor(image[np.newaxis])
    heats = [heat_map(model, image, (4, 4), label).heat for label in range(3)]
    for heat, weight in zip(heats, model.classifier.weight.numpy(), strict=True):
        shares = np.maximum(model.features(x)[0].numpy() @ weight, 0)
        np.testing.assert_allclose(heat, shares / (shares.max() or 1), atol=1e-5)
    assert not np.allclose(heats[0], heats[1])


def test_another_thread_may_use_the_model_meanwhile():
    model = models.create("cnn", num_classes=2, in_channels=1, image_size=16)
    image = np.random.default_rng(0).random((16, 16, 1), np.float32)
    alone = heat_map(model, image, (16, 16), 0).heat
    calls = []

    def meanwhile(module, args, output):
        calls.append(output)
        if len(calls) == 1:
            thread = threading.Thread(target=model, args=(ie.zeros((1, 16, 16, 1)),))
            thread.start()
            thread.join()

    model.classifier.register_forward_hook(meanwhile)
    np.testing.assert_array_equal(heat_map(model, image, (16, 16), 0).heat, alone)
    assert len(calls) == 2
    assert alone.max() == 1


def test_small_feature_maps_are_passed_over_for_ones_with_a_place():
    model = models.create("resnet18", num_classes=2, in_channels=1, image_size=8)  # its last stage is 1 x 1
    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    assert len(np.unique(heat_map(model, image, (2, 2), 0).heat)) > 1


def test_a_class_token_and_the_padding_of_patches_are_left_out():
    class ClassToken(models.ImageModel):
        def __init__(self):
            super().__init__(2, 1, (8, 8))
            self.token = nn.Parameter(ie.randn(1, 1, 8))
            self.patches = nn.Conv2d(1, 8, 4, stride=4, padding=2)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True)
            self.classifier = nn.Linear(8, 2)

        def forward(self, x):
            patches = self.patches(x).reshape(1, 9, 8)
            tokens = self.layer(F.concatenate([self.token, patches], 1))
            return self.classifier(tokens[:, 0])

    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    model = ClassToken().eval()
    seen = []
    handle = model.layer.self_attn.register_forward_hook(lambda module, args, _: seen.append(module.weights(*args[:2])))
    heat = heat_map(model, image, (2, 2), 0).heat
    handle.remove()
    flow = rollout([seen[0].numpy().mean(axis=(0, 1))])[0, 1:].reshape(3, 3)  # of the class token to the patches
    flow -= flow.min()
    corners = [[flow[i : i + 2, j : j + 2].mean() for j in (0, 1)] for i in (0, 1)]  # the image begins half a patch in
    np.testing.assert_allclose(heat, corners / np.max(corners), atol=1e-5)


def test_rollout_shares_sum_to_one():
    attention = nn.MultiheadAttention(16, num_heads=4)
    x = ie.randn(1, 7, 16)
    weights = attention.weights(x, x)
    assert weights.shape == (1, 4, 7, 7)
    np.testing.assert_allclose(weights.numpy().sum(axis=-1), 1, atol=1e-6)
    v = F.linear(x, attention.in_proj_weight[32:], attention.in_proj_bias[32:]).reshape(1, 7, 4, 4).permute(0, 2, 1, 3)
    mixed = (weights @ v).permute(0, 2, 1, 3).reshape(1, 7, 16)
    np.testing.assert_allclose(attention.out_proj(mixed).numpy(), attention(x, x, x)[0].numpy(), atol=1e-5)
    flow = rollout([weights.numpy().mean(axis=(0, 1))] * 3)
    np.testing.assert_allclose(flow.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rollout([np.eye(5)] * 4), np.eye(5))


class Flat(nn.Module):
    def __init__(self):
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    def forward(self, x):
        return self.body(x)


class Tagger(nn.Module):
    def __init__(self):
        self.lstm = nn.LSTM(8, 3)

    def forward(self, x):
        return self.lstm(x.reshape(1, 8, 8))[0]


class Pixels(nn.Module):
    def __init__(self):
        self.attention = nn.TransformerEncoderLayer(8, 2, 16)
        self.classifier = nn.Linear(8, 2)

    def forward(self, x):
        return self.classifier(self.attention(x.reshape(1, 8, 8)).mean(axis=1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Flat, "explain: Flat has neither convolutions nor attention nor recurrence"),
        (Tagger, r"Tagger gives \(1, 8, 3\) for one image"),
        (Pixels, "Pixels's 8 tokens are not the patches"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, message):
    network = model()
    with pytest.raises(ModelError, match=message):
        heat_map(network, np.zeros((8, 8, 1), np.float32), (8, 8), 0)
    assert all(not module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_there_is_not_is_refused(label):
    model = models.create("cnn", num_classes=3, in_channels=1, image_size=16)
    with pytest.raises(ModelError, match=f"CNN has 3 classes; there is no number {label}"):
        heat_map(model, np.zeros((16, 16, 1), np.float32), (16, 16), label)


def test_colours_and_sizes():
    np.testing.assert_array_equal(colours(np.array([0, 0.25, 1], np.float32)), COLOURS[[0, 1, 4]])
    assert (np.diff(COLOURS @ [0.299, 0.587, 0.114]) > 0).all()
    heat = np.zeros((40, 60), np.float32)
    heat[:, 30:] = 1
    grey = np.full((40, 60, 1), 100, np.uint8)
    picture = overlay(grey, heat, "cat 0.93")
    assert picture.shape == (round(40 * 256 / 60) + 28, 256, 3)
    assert (picture[:160, :100] == 100).all()
    np.testing.assert_allclose(picture[80, 250], 25 + 0.75 * COLOURS[-1], atol=0.51)
    np.testing.assert_array_equal(overlay(grey.repeat(3, axis=2), heat, "cat 0.93"), picture)
    np.testing.assert_array_equal(overlay(grey.astype(np.float32) / 255, heat, "cat 0.93"), picture)
    assert not np.array_equal(overlay(grey, heat, "dog 0.93"), picture)
    assert overlay(grey, heat, "a long name " * 20).shape == picture.shape
    large = np.zeros((2000, 1000, 3), np.uint8)
    assert overlay(large, np.zeros((2000, 1000), np.float32), "").shape == (1024 + 28, 512, 3)


def test_clips_are_strips_of_eight_frames_at_most():
    for frames, drawn in ((1, 1), (3, 3), (30, 8)):
        clip = np.zeros((frames, 20, 10, 1), np.uint8)
        picture = overlay(clip, np.zeros((frames, 20, 10), np.float32), "walking")
        assert picture.shape == (128 + 28, 64 * drawn + 4 * (drawn - 1), 3)


def test_an_explanation_is_drawn(tmp_path):
    explanation = Explanation(np.zeros((9, 9, 1), np.uint8), np.ones((9, 9), np.float32), "Grad-CAM", "cat", 0.5)
    explanation.draw(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), explanation.picture())


@pytest.fixture
def run(tmp_path):
    """A recogniser of two classes in a run folder, and a folder of photos of which two have the same name."""
    model = models.create("cnn", num_classes=2, in_channels=3, image_size=16, width=4)
    (tmp_path / "run").mkdir()
    preprocessing = Preprocessing((16, 16), 3, (0.5,) * 3, (0.5,) * 3)
    Recogniser(model, ("no", "yes"), preprocessing).save(tmp_path / "run" / "best.safetensors")
    for place in ("a/0.png", "a/0.jpg", "b/0.png"):
        (tmp_path / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(
            tmp_path / "photos" / place
        )
    return tmp_path


def test_predict_draws_a_picture_for_each_photo(run, capsys):
    (run / "photos" / "a" / "notes.txt").write_text("no image")
    out = run / "out"
    command = ["predict", str(run / "run"), str(run / "photos"), "--json", "--explain", str(out)]
    assert main(command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    drawn = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert drawn == {"a/0.png.png", "a/0.jpg.png", "b/0.png.png"}
    assert {line["explained"] for line in lines} == {str(out / name) for name in drawn}
    with Image.open(out / "b" / "0.png.png") as picture:
        assert picture.size == (256, 171 + 28)


def test_pictures_are_not_overwritten(run, capsys):
    photo, out = run / "photos" / "b" / "0.png", run / "out"
    command = ["predict", str(run / "run"), str(photo), "--explain", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"({out / '0.png.png'})")
    before = (out / "0.png.png").read_bytes()
    (out / "0.png.png").write_bytes(before + b"mine")
    assert main(command) == 2
    assert "0.png.png: File exists" in capsys.readouterr().err
    assert (out / "0.png.png").read_bytes() == before + b"mine"
    (out / "0.png.png").unlink()
    assert main(command) == 0
    assert (out / "0.png.png").read_bytes() == before


def test_pictures_go_to_a_folder_beside_you_by_default(run, monkeypatch):
    monkeypatch.chdir(run)
    assert main(["predict", "run", "photos/a/0.png", "photos/a/../b/0.png", "--explain"]) == 0
    assert {path.as_posix() for path in run.joinpath("explained").rglob("*.png")} == {
        f"{run}/explained/{name}/0.png.png" for name in ("a", "b")
    }
