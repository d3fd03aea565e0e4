"""Every model by name: shapes, learning, repeatability, configuration."""

import json

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import models, optim
from imgrec_engine.errors import ModelError, ShapeError
from imgrec_engine.train.tasks import task_of

NAMES = models.names()


def batch(name, size, channels, count=2):
    height, width = (size, size) if isinstance(size, int) else size
    frames = (3,) if name.startswith("video_") else ()
    return ie.randn(count, *frames, height, width, channels)


def test_the_models_promised_are_there():
    assert NAMES == [
        "attention", "cnn", "cnn_attention", "cnn_lstm", "crnn", "lstm", "lstm_attention", "resnet10", "resnet18",
        "resnet20", "resnet_max", "rnn", "video_attention", "video_lstm",
    ]  # fmt: skip
    assert all(summary.endswith(".") for _, summary in models.summaries())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (11, 3), ((9, 21), 2), (28, 1)])
def test_any_size_and_any_channels(name, size, channels):
    model = models.create(name, num_classes=5, in_channels=channels, image_size=size)
    logits = model(batch(name, size, channels))
    width = size[1] if isinstance(size, tuple) else size
    assert logits.shape == ((2, width // 4, 6) if name == "crnn" else (2, 5))
    assert np.isfinite(logits.numpy()).all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["attention", "cnn_lstm", "cnn_attention", "resnet18"])
def test_larger_images(name):
    model = models.create(name, num_classes=3, in_channels=1, image_size=(96, 70)).eval()
    with ie.no_grad():
        assert model(batch(name, (96, 70), 1, count=1)).shape == (1, 3)


def labels_for(name, classes):
    """One class an image; for models that read, a string of one."""
    return ie.tensor(classes[:, np.newaxis] if models.task(name) == "transcription" else classes)


def train(name, steps):
    """Learns to tell images bright at the top from images bright at the bottom; returns the losses and the model."""
    ie.manual_seed(3)
    model = models.create(name, num_classes=2, in_channels=1, image_size=8)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    labels = labels_for(name, np.arange(16) % 2)
    x = batch(name, 8, 1, count=16).numpy()
    x[::2, ..., :4, :, :] += 1
    x[1::2, ..., 4:, :, :] += 1
    images, losses = ie.tensor(x), []
    for _ in range(steps):
        loss = task_of(model).loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_training_is_repeatable(name):
    losses, model = train(name, 6)
    assert losses[-1] < 0.9 * losses[0]
    ie.set_num_threads(1)
    again, twin = train(name, 6)
    assert again == losses
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(twin.state_dict()[key].numpy(), value.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_rebuilt_from_its_configuration(name):
    model = models.create(name, num_classes=4, in_channels=2, image_size=(10, 12)).eval()
    config = json.loads(json.dumps(model.config))
    assert config["name"] == name
    twin = models.create(config["name"], **config["arguments"]).eval()
    twin.load_state_dict(model.state_dict())
    x = batch(name, (10, 12), 2)
    np.testing.assert_array_equal(model(x).numpy(), twin(x).numpy())
    assert "num_classes=4, in_channels=2, image_size=(10, 12)" in repr(model)


def test_the_largest_features_do_not_depend_on_where_a_mark_is():
    model = models.create("resnet_max", num_classes=3, in_channels=1, image_size=128, width=4).eval()
    with ie.no_grad():
        model.fc.weight[:, :16] = 0.0  # what the mean is multiplied with
        x = np.zeros((3, 128, 128, 1), np.float32)
        x[0, 48:51, 49] = x[1, 72:75, 65] = 5.0
        one, other, none = model(ie.tensor(x)).numpy()
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert abs(one - none).max() > 0.01


def test_own_arguments_are_kept():
    model = models.create("cnn_lstm", num_classes=4, hidden_size=24)
    assert model.config["arguments"]["hidden_size"] == 24
    assert model.lstm.hidden_size == 24


@pytest.mark.parametrize("name", ["video_attention", "video_lstm"])
def test_clips_may_have_different_lengths(name):
    model = models.create(name, num_classes=3, in_channels=1, image_size=8).eval()
    clips = ie.randn(2, 5, 8, 8, 1)
    padded = model(clips, lengths=ie.tensor([5, 2])).numpy()
    np.testing.assert_allclose(padded[:1], model(clips[:1]).numpy(), atol=1e-6)
    np.testing.assert_allclose(padded[1:], model(clips[1:, :2]).numpy(), atol=1e-6)
    for wrong in ([5, 6], [0, 2], [5]):
        with pytest.raises(ShapeError, match="lengths"):
            model(clips, lengths=wrong)


@pytest.mark.parametrize("name", ["video_attention", "video_lstm"])
def test_the_order_of_frames_matters(name):
    model = models.create(name, num_classes=3, in_channels=1, image_size=8)  # batch norm sees the same either way
    clips = ie.randn(2, 5, 8, 8, 1)
    difference = model(clips).numpy() - model(ie.tensor(clips.numpy()[:, ::-1])).numpy()
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg", {}, "there is no model 'vgg'; there are attention, cnn"),
        ("cnn", {"image_size": 7}, "image_size is 7"),
        ("cnn", {"image_size": (8, 8, 3)}, "image_size is"),
        ("cnn", {"num_classes": 0}, "num_classes is 0"),
        ("cnn", {"depth": 3}, "'cnn' takes no argument 'depth'; it takes width, dropout"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("cnn", (2, 8, 8, 1), r"CNN: the images have shape \(2, 8, 8, 1\), expected \(N, H, W, 3\)"),
        ("lstm", (2, 9, 8, 3), r"expected \(N, 8, 8, 3\)"),
        ("crnn", (2, 8, 9, 3), r"expected \(N, 8, 8, 3\)"),
        ("attention", (2, 8, 8), r"expected \(N, 8, 8, 3\)"),
        ("video_lstm", (2, 8, 8, 3), r"expected \(N, T, H, W, 3\)"),
        ("video_attention", (2, 8, 8, 3), r"expected \(N, T, H, W, 3\)"),
    ],
)
def test_images_that_do_not_fit_are_named(name, shape, message):
    with pytest.raises(ShapeError, match=message):
        models.create(name, image_size=8)(ie.zeros(shape))


def test_residual_networks_have_the_papers_sizes():
    sizes = {
        name: sum(p.size for p in models.create(name, num_classes=classes, image_size=size, **own).parameters())
        for name, classes, size, own in [
            ("resnet20", 10, 32, {}), ("resnet18", 1000, 224, {}), ("resnet10", 1000, 224, {"width": 64}),
        ]
    }  # fmt: skip
    assert sizes["resnet18"] == 11_689_512  # torchvision's resnet18
    second_blocks = [2 * 9 * width**2 + 4 * width for width in (64, 128, 256, 512)]
    assert sizes["resnet10"] == sizes["resnet18"] - sum(second_blocks)
    assert sizes["resnet20"] == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)  # the paper's 0.27 M and two 1x1 shortcuts


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": "a"},
        {"in_channels": 1.5},
        {"image_size": 32.5},
        {"image_size": "a"},
        {"width": -1},
        {"width": "x"},
    ],
)
def test_what_cannot_be_built_is_refused(arguments):
    with pytest.raises(ModelError, match=r"models\.create"):
        ie.models.create("cnn", **arguments)


def test_sizes_may_be_numpys():
    model = ie.models.create("cnn", num_classes=np.int64(3), image_size=np.int64(16))
    assert model.config["arguments"]["image_size"] == [16, 16]
