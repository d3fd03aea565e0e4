"""State dicts between PyTorch's layout and ours."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import models, nn


def test_convolutions_change_layout_and_the_rest_stays():
    generator = np.random.default_rng(0)
    state = {
        "conv.weight": generator.standard_normal((6, 2, 3, 5)).astype(np.float32),
        "conv.bias": np.zeros(6, np.float32),
        "norm.num_batches_tracked": np.array(3),
        "lstm.weight_ih_l0_reverse": np.ones((8, 2), np.float32),
        "grid": np.arange(16.0).reshape(2, 2, 2, 2),
    }
    ours = ie.convert.from_torch_state_dict(state)
    assert list(ours) == list(state)
    assert ours["conv.weight"][4, 2, 3, 1] == state["conv.weight"][4, 1, 2, 3]
    assert ours["conv.weight"].flags.c_contiguous
    assert ours["norm.num_batches_tracked"].shape == ()
    np.testing.assert_array_equal(ours["grid"], state["grid"])
    back = ie.convert.to_torch_state_dict(ours)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype


def test_results_are_copies():
    model = nn.Linear(2, 2)
    converted = ie.convert.to_torch_state_dict(model.state_dict())
    converted["weight"][:] = 7
    assert (model.weight.numpy() != 7).all()


def test_models_survive_the_way_there_and_back():
    for name in ("resnet20", "attention", "cnn_lstm"):
        source = models.create(name, num_classes=3, in_channels=1, image_size=8)
        target = models.create(name, num_classes=3, in_channels=1, image_size=8)
        state = ie.convert.from_torch_state_dict(ie.convert.to_torch_state_dict(source.state_dict()))
        target.load_state_dict(state)
        for key, value in source.state_dict().items():
            np.testing.assert_array_equal(target.state_dict()[key].numpy(), value.numpy())
