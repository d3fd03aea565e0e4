"""The same weights and the same batches in PyTorch, where it is installed."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import models, nn, optim

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two pools of threads on the same cores wait for each other


def arrays(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def to_torch(tensor):
    return torch.from_numpy(tensor.numpy().copy())


def channels_first(x):
    return x.permute(*range(x.ndim - 3), -1, -3, -2)


def same(ours, theirs, tolerance=1e-12):
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


# --- layers -----------------------------------------------------------------------------------------------------------


def pair_of(ours, theirs):
    """Both in float64, ours with their weights; the state keys must agree."""
    theirs = theirs.double()
    ours = ours.to("float64")
    ours.load_state_dict(ie.convert.from_torch_state_dict(arrays(theirs)))
    back = ie.convert.to_torch_state_dict(ours.state_dict())
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in back.items()})
    return ours, theirs


@pytest.mark.parametrize(
    "arguments", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}, {"groups": 2, "bias": False}]
)
def test_convolution(arguments):
    ours, theirs = pair_of(nn.Conv2d(4, 6, (3, 2), **arguments), torch.nn.Conv2d(4, 6, (3, 2), **arguments))
    x = ie.randn(2, 7, 6, 4, dtype="float64")
    same(ours(x), theirs(channels_first(to_torch(x))).permute(0, 2, 3, 1))


def test_normalisation():
    ours, theirs = pair_of(nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3))
    for _ in range(2):
        x = ie.randn(4, 5, 6, 3, dtype="float64")
        same(ours(x), theirs(channels_first(to_torch(x))).permute(0, 2, 3, 1))
    for name, value in arrays(theirs).items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), value, rtol=1e-12)
    ours, theirs = pair_of(nn.LayerNorm(6), torch.nn.LayerNorm(6))
    x = ie.randn(4, 6, dtype="float64")
    same(ours(x), theirs(to_torch(x)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent(kind, bidirectional):
    arguments = {"num_layers": 2, "bidirectional": bidirectional}
    ours, theirs = pair_of(
        getattr(nn, kind)(3, 5, **arguments), getattr(torch.nn, kind)(3, 5, batch_first=True, **arguments)
    )
    x, lengths = ie.randn(4, 6, 3, dtype="float64"), [6, 4, 4, 1]
    states = [ie.randn(4 if bidirectional else 2, 4, 5, dtype="float64") for _ in range(2 if kind == "LSTM" else 1)]
    output, final = ours(x, tuple(states) if kind == "LSTM" else states[0], lengths=ie.tensor(lengths))
    packed = torch.nn.utils.rnn.pack_padded_sequence(to_torch(x), torch.tensor(lengths), batch_first=True)
    given = tuple(map(to_torch, states))
    packed_output, their_final = theirs(packed, given if kind == "LSTM" else given[0])
    same(output, torch.nn.utils.rnn.pad_packed_sequence(packed_output, batch_first=True)[0])
    finals = (final, their_final) if kind == "LSTM" else ([final], [their_final])
    for our_state, their_state in zip(*finals, strict=True):
        same(our_state, their_state)


@pytest.mark.parametrize("additive", [False, True])
def test_multihead_attention(additive):
    ours, theirs = pair_of(nn.MultiheadAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True))
    query, key, value = (ie.randn(3, n, 8, dtype="float64") for n in (4, 6, 6))
    padding = np.arange(6) >= np.array([[6], [4], [2]])
    forbidden = np.triu(np.ones((4, 6), bool), 3)
    if additive:
        forbidden, padding = np.where(forbidden, -np.inf, 0.5), np.where(padding, -np.inf, 0.0)
    output, _ = ours(query, key, value, ie.tensor(padding), ie.tensor(forbidden))
    expected, _ = theirs(
        *map(to_torch, (query, key, value)),
        key_padding_mask=torch.from_numpy(padding),
        attn_mask=torch.from_numpy(forbidden),
        need_weights=False,
    )
    same(output, expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_layer(norm_first, activation):
    arguments = {"dim_feedforward": 16, "dropout": 0.0, "activation": activation, "norm_first": norm_first}
    ours, theirs = pair_of(
        nn.TransformerEncoderLayer(8, 2, **arguments),
        torch.nn.TransformerEncoderLayer(8, 2, batch_first=True, **arguments),
    )
    x = ie.randn(3, 5, 8, dtype="float64")
    same(ours(x), theirs(to_torch(x)))


def test_initial_values_have_the_same_spread():
    ie.manual_seed(0)
    torch.manual_seed(0)
    made = [
        (nn.Linear(300, 200), torch.nn.Linear(300, 200)),
        (nn.Conv2d(16, 64, 5, groups=2), torch.nn.Conv2d(16, 64, 5, groups=2)),
        (nn.LSTM(40, 60), torch.nn.LSTM(40, 60)),
        (nn.MultiheadAttention(64, 4), torch.nn.MultiheadAttention(64, 4)),
        (nn.Embedding(200, 50), torch.nn.Embedding(200, 50)),
    ]
    for ours, theirs in made:
        for name, value in arrays(theirs).items():
            mine = ours.state_dict()[name].numpy()
            np.testing.assert_allclose(mine.std(), value.std(), rtol=0.1 if mine.size > 500 else 0.3)


# --- optimisers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("Adam", {"lr": 0.1, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.1}),
    ],
)
def test_optimisers(kind, settings):
    x = ie.randn(6, dtype="float64", requires_grad=True)
    y = to_torch(x.detach()).requires_grad_()
    ours, theirs = getattr(optim, kind)([x], **settings), getattr(torch.optim, kind)([y], **settings)
    for _ in range(8):
        x.grad = ie.randn(6, dtype="float64")
        y.grad = to_torch(x.grad)
        assert optim.clip_grad_norm_([x], 1.5).item() == pytest.approx(torch.nn.utils.clip_grad_norm_([y], 1.5).item())
        ours.step()
        theirs.step()
        same(x.detach(), y)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda o: optim.StepLR(o, 4), lambda o, s: s.StepLR(o, 4)),
        (lambda o: optim.CosineAnnealingLR(o, 20, 0.01), lambda o, s: s.CosineAnnealingLR(o, 20, 0.01)),
        (lambda o: optim.OneCycleLR(o, 0.3, 20), lambda o, s: s.OneCycleLR(o, 0.3, 20)),
        (
            lambda o: optim.LinearWarmup(o, 5, 0.1, after=optim.CosineAnnealingLR(o, 15)),
            lambda o, s: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingLR(o, 15)], [5]),
        ),
    ],
)
def test_schedules(ours, theirs):
    optimizer = optim.AdamW([ie.zeros(1, requires_grad=True)], lr=0.2)
    twin = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule, other = ours(optimizer), theirs(twin, torch.optim.lr_scheduler)
    for _ in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(twin.param_groups[0]["lr"], rel=1e-9)
        assert optimizer.param_groups[0]["betas"] == pytest.approx(twin.param_groups[0]["betas"])
        twin.step()
        schedule.step()
        other.step()


# --- training ---------------------------------------------------------------------------------------------------------


class TorchFeatures(torch.nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        for number, (before, after) in enumerate([(channels, width), (width, 2 * width), (2 * width, 4 * width)], 1):
            setattr(self, f"conv{number}", torch.nn.Conv2d(before, after, 3, padding=1, bias=False))
            setattr(self, f"bn{number}", torch.nn.BatchNorm2d(after))

    def forward(self, x):
        x = torch.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = torch.max_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        return self.bn3(self.conv3(x)).relu()


class TorchCNN(torch.nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.features = TorchFeatures(1, width)
        self.classifier = torch.nn.Linear(4 * width, 4)

    def forward(self, x):
        return self.classifier(self.features(channels_first(x)).mean((2, 3)))


class TorchLSTM(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(12, 128, batch_first=True)
        self.classifier = torch.nn.Linear(128, 4)

    def forward(self, x):
        return self.classifier(self.lstm(x.flatten(2))[1][0][-1])


class TorchCNNLSTM(torch.nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.features = TorchFeatures(1, width)
        self.lstm = torch.nn.LSTM(3 * 4 * width, 64, batch_first=True)
        self.classifier = torch.nn.Linear(4 * width + 64, 4)

    def forward(self, x):
        features = self.features(channels_first(x))
        _, (h_n, _) = self.lstm(features.permute(0, 2, 3, 1).flatten(2))  # row by row
        return self.classifier(torch.cat([features.mean((2, 3)), h_n[-1]], 1))


def batches(count):
    """Noisy images of four classes, each brighter in another quarter."""
    for _ in range(count):
        labels = ie.tensor(np.arange(64) % 4)
        images = ie.randn(64, 12, 12, 1).numpy()
        for n, label in enumerate(labels.tolist()):
            top, left = 6 * (label // 2), 6 * (label % 2)
            images[n, top : top + 6, left : left + 6] += 1
        yield ie.tensor(images), labels


@pytest.mark.parametrize(("name", "twin"), [("cnn", TorchCNN), ("lstm", TorchLSTM), ("cnn_lstm", TorchCNNLSTM)])
@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [("float32", 50, 1e-4), ("float64", 20, 1e-10)])
def test_loss_curves_agree(name, twin, dtype, steps, tolerance):
    """In float32, a rounding error that moves an activation across ReLU's kink shows; float64 tells it from a fault."""
    ours = models.create(name, num_classes=4, in_channels=1, image_size=12).to(dtype)
    theirs = twin().to(getattr(torch, dtype))
    state = ie.convert.to_torch_state_dict(ours.state_dict())
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    optimizer = optim.SGD(ours.parameters(), lr=0.002, momentum=0.9)
    other = torch.optim.SGD(theirs.parameters(), lr=0.002, momentum=0.9)
    curves = []
    for images, labels in batches(steps):
        images = images.to(dtype)
        loss = F.cross_entropy(ours(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        their_loss = torch.nn.functional.cross_entropy(theirs(to_torch(images)), to_torch(labels))
        other.zero_grad()
        their_loss.backward()
        other.step()
        curves.append((loss.item(), their_loss.item()))
    mine, expected = np.array(curves).T
    np.testing.assert_allclose(mine, expected, rtol=tolerance)
    assert expected[-1] < 0.99 * expected[0]
