"""Exported files, run by onnxruntime: every model, the command, and what is refused."""

import json
import sys

import numpy as np
import pytest
from exported import Function, t, values

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.cli import main
from imgrec_engine.errors import DataError, DeviceError, ExportError
from imgrec_engine.onnx import exporting
from imgrec_engine.onnx import parity as parities
from imgrec_engine.onnx.table import TRANSLATIONS
from imgrec_engine.onnx.translate import translate
from imgrec_engine.train.tasks import task_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = (20, 24)


def random_model(name, **arguments):
    """With running statistics as a trained one has them."""
    model = ie.models.create(name, num_classes=5, in_channels=3, image_size=SIZE, **arguments).eval()
    for key, buffer in model.named_buffers():
        if "running" in key:
            buffer.copy_(np.abs(values(*buffer.shape)) + 0.5 * key.endswith("var"))
    return model


def run(path, x):
    (output,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": x})
    return output


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ie.models.names())
def test_a_model_computes_the_same_for_any_batch(name, tmp_path):
    model = random_model(name)
    frames = (4,) if name.startswith("video_") else ()
    shape = (*frames, *SIZE, 3)
    parity = ie.onnx.export(model, tmp_path / "m.onnx", values(1, *shape) if frames else None)
    assert parity.same_top == parity.samples == 9
    for batch in (1, 2, 5):
        x = values(batch, *shape)
        expected = model(ie.tensor(x)).numpy()
        found = run(tmp_path / "m.onnx", x)
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)
        assert (task_of(model).answers(found) == task_of(model).answers(expected)).all()


@pytest.mark.parametrize("name", ["rnn", "lstm", "lstm_attention"])
def test_stacked_layers(name, tmp_path):
    ie.onnx.export(random_model(name, num_layers=3, hidden_size=8), tmp_path / "m.onnx")


def test_convolutional_models_transpose_at_both_ends_only():
    for name in ("cnn", "resnet20"):
        kinds = [node.kind for node in translate(random_model(name), values(1, *SIZE, 3)).nodes]
        assert kinds[0] == "Transpose"
        assert [kind for kind in kinds if kind == "Transpose"] == ["Transpose"] * 2
        assert kinds.index("Transpose", 1) > len(kinds) - 5


def test_the_file_says_what_it_takes_and_gives(tmp_path):
    ie.onnx.export(random_model("cnn"), tmp_path / "m.onnx", metadata={"classes": ["a", "b"], "note": "text"})
    model = onnx.load(tmp_path / "m.onnx")
    (given,), (output,) = model.graph.input, model.graph.output
    assert [given.name, output.name] == ["images", "logits"]
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["N", 20, 24, 3]
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["N", 5]
    assert {p.key: p.value for p in model.metadata_props} == {"classes": '["a", "b"]', "note": "text"}
    assert "features.conv1.weight" in {tensor.name for tensor in model.graph.initializer}
    assert "features/conv1/Conv_1" in {node.name for node in model.graph.node}


def test_a_model_is_left_in_its_mode(tmp_path):
    model = random_model("cnn", dropout=0.5).train()
    before = {name: buffer.numpy().copy() for name, buffer in model.named_buffers()}
    ie.onnx.export(model, tmp_path / "m.onnx")
    assert all(module.training for module in model.modules())
    for name, buffer in model.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), before[name])


def test_several_outputs_are_numbered(tmp_path):
    layer = nn.LSTM(3, 4, bidirectional=True)
    ie.onnx.export(layer, tmp_path / "m.onnx", values(2, 5, 3))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [output.name for output in session.get_outputs()] == ["output0", "output1", "output2"]
    x = values(4, 5, 3)
    output, states = layer(ie.tensor(x))
    for ours, theirs in zip((output, *states), session.run(None, {"input": x}), strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-6)


# --- what is refused ------------------------------------------------------------------------------------------------


class Doubles(nn.Module):
    def forward(self, x):
        return ie.tensor(2 * x.detach().numpy())


def in_place(x):
    y = x.detach() * 1
    view = y.reshape(-1)
    view[0] = 5.0
    return y + 1


def reader(x, lengths):
    return F.rnn(x.unsqueeze(2), None, t(1, 1), t(1, 1), lengths=lengths)[0]


@ie.differentiable
def cube(x: "Array"):  # noqa: F821
    return x**3, None


REFUSED = {
    "operation cube in the module '1' has no translation": nn.Sequential(nn.ReLU(), Function(cube)),
    "depends on the batch: mean": Function(lambda x: x.mean() if len(x) == 2 else x.sum()),
    "concatenate in the model itself: the result has a length of 3 for a batch of 2 and of 4 for": Function(
        lambda x: F.concatenate([x, x[:1]])
    ),
    "y of shape .* depends on the input but was not computed from it": Function(lambda x: x + Doubles()(x)),
    "writes to a tensor in place": Function(in_place),
    "dropout in the model itself: it draws at random": Function(lambda x: F.dropout(x, 0.5)),
    "training mode": Function(lambda x: F.batch_norm(x, None, None, None, None, True)),
    "weight depends on the input": Function(lambda x: F.linear(x, x[:4, :])),
    "lengths were given": Function(lambda x: reader(x, np.full(len(x), 2))),
    r"rnn in the model itself: lengths depends on the batch: \[2, 2\] for": Function(lambda x: reader(x, [2] * len(x))),
    "an argument depends on the batch's length": Function(lambda x: x[: len(x)]),
    "more than slices beside it": Function(lambda x: x.unsqueeze(1)[:, 0, [1, 2]]),
    "is float64; exported models are float32": nn.Linear(4, 2).to("float64"),
    "needs an example": None,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_exported_is_named(message, tmp_path):
    model, example = REFUSED[message], values(2, 4)
    if model is None:
        model, example = nn.Linear(4, 2), None
    with pytest.raises(ExportError, match=message):
        ie.onnx.export(model, tmp_path / "m.onnx", example)
    assert list(tmp_path.iterdir()) == []


def test_a_model_elsewhere_is_refused(tmp_path):
    pytest.importorskip("imgrec_engine._sim")
    with pytest.raises(DeviceError, match="weight is on sim"):
        ie.onnx.export(nn.Linear(4, 2).to("sim"), tmp_path / "m.onnx", values(1, 4))


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    wrong = lambda graph, result, x: graph.add("Softsign", graph.name(x))  # noqa: E731
    monkeypatch.setitem(TRANSLATIONS, "relu", wrong)
    (tmp_path / "m.onnx").write_bytes(b"before")
    with pytest.raises(ExportError, match="does not compute what the model does"):
        ie.onnx.export(nn.ReLU(), tmp_path / "m.onnx", values(1, 4))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_without_the_packages(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert ie.onnx.export(nn.ReLU(), tmp_path / "m.onnx", values(1, 4)) is None
    assert (tmp_path / "m.onnx").exists()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install imgrec_engine\[onnx\]"):
        ie.onnx.export(nn.ReLU(), tmp_path / "n.onnx", values(1, 4))


@pytest.mark.parametrize(("expected", "found"), [([1.0, np.nan], [1.0, 2.0]), ([np.inf], [1.0]), ([1.0], [-np.inf])])
def test_what_is_finite_in_one_only_is_infinitely_far(expected, found):
    assert parities._distance(np.array(expected), np.array(found)) == np.inf
    assert parities._distance(np.array(expected), np.array(expected)) == 0


# --- recognisers and the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(out), "--model", "cnn_lstm", "--epochs", "1"]) == 0
    return out


def test_the_command_exports_a_run(digits_run, tmp_path, capsys):
    assert main(["export", str(digits_run), str(tmp_path / "model.onnx")]) == 0
    assert "cnn_lstm, onnxruntime" in (printed := capsys.readouterr().out)
    assert "on 445 samples: top-1 equal on 445, outputs differ by " in printed
    recogniser = ie.train.Recogniser.load(digits_run)
    images, _ = ie.data.load("digits", "test").gather(range(20))
    logits = run(tmp_path / "model.onnx", images)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    expected = recogniser.probabilities(images)
    np.testing.assert_allclose(exponentials / exponentials.sum(1, keepdims=True), expected, atol=1e-5)
    stored = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(stored["classes"]) == list(recogniser.classes)
    assert json.loads(stored["preprocessing"]) == recogniser.preprocessing.to_config()
    assert json.loads(stored["model"])["name"] == "cnn_lstm"
    assert stored["pixels"] == "0 to 1"


def test_the_command_leaves_nothing_where_the_file_differs(digits_run, tmp_path, capsys, monkeypatch):
    linear = TRANSLATIONS["linear"]

    def almost(graph, result, **arguments):
        return graph.add("Mul", linear(graph, result, **arguments), graph.constant(1.001, np.float32))

    monkeypatch.setitem(TRANSLATIONS, "linear", almost)
    assert main(["export", str(digits_run), str(tmp_path / "model.onnx")]) == 2
    assert "imgrec: onnx: the file does not recognise what the model does" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_preprocessing_that_differs_is_noticed(tmp_path, monkeypatch):
    """The file is compared with the recogniser, not with the module from which it was translated."""
    model = ie.models.create("cnn", num_classes=2, in_channels=1, image_size=12)
    recogniser = ie.train.Recogniser(model, ("a", "b"), ie.data.Preprocessing((12, 12), 1, (0.4,), (0.3,)))
    forward = exporting.WithPreprocessing.forward
    monkeypatch.setattr(exporting.WithPreprocessing, "forward", lambda self, x: forward(self, x + 0.01))
    data = ie.data.ArrayDataset(np.abs(values(6, 12, 12)), [0, 1] * 3, ("a", "b"))
    with pytest.raises(ExportError, match="does not recognise what the model does"):
        ie.onnx.export_recogniser(recogniser, tmp_path / "m.onnx", data)


def test_the_command_says_that_nothing_was_verified(digits_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(digits_run), str(tmp_path / "model.onnx")]) == 0
    assert "not verified: onnxruntime is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("frames", [(), (3,)])
def test_bytes_go_in_as_they_are(per_image, frames, tmp_path):
    generator = np.random.Generator(np.random.Philox(5))
    pixels = generator.integers(0, 256, (7, *frames, 14, 18, 3), np.uint8)
    data = ie.data.ArrayDataset(pixels, [0, 1, 0, 1, 0, 1, 0], ("a", "b"))
    model = ie.models.create("video_lstm" if frames else "cnn", num_classes=2, in_channels=1, image_size=(12, 10))
    preprocessing = ie.data.Preprocessing((12, 10), 1, (0.4,), (0.3,), per_image)
    recogniser = ie.train.Recogniser(model, ("a", "b"), preprocessing)
    parity = ie.onnx.export_recogniser(recogniser, tmp_path / "m.onnx", data)
    assert parity.same_top == parity.samples == 7
    prepared = np.stack([preprocessing.geometry()(image) for image in pixels])
    logits = run(tmp_path / "m.onnx", prepared)
    expected = model.eval()(ie.tensor(np.stack([preprocessing.compose()(image) for image in pixels]))).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(DataError, match="knows the classes"):
        ie.onnx.export_recogniser(recogniser, tmp_path / "n.onnx", ie.data.load("digits", "test"))
