"""Recognisers: images together or one by one, and what their checkpoints carry."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine.data import Preprocessing
from imgrec_engine.train import Recogniser


@pytest.fixture
def recogniser():
    model = ie.models.create("cnn_lstm", num_classes=2, in_channels=1, image_size=12, width=4, hidden_size=8)
    return Recogniser(model, ("no", "yes"), Preprocessing((12, 12), 1, (0.0,), (1.0,), per_image=True))


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 20, 16, 3), np.uint8)


def test_an_array_and_a_list_of_images_give_the_same_bits(recogniser):
    together = recogniser.probabilities(images(5), batch_size=2)
    one_by_one = recogniser.probabilities(list(images(5)), batch_size=2)
    np.testing.assert_array_equal(together, one_by_one)
    assert recogniser.probabilities(images(0)).shape == recogniser.probabilities([]).shape == (0, 2)


def test_a_checkpoint_keeps_the_standardisation_of_every_image(recogniser, tmp_path):
    recogniser.save(tmp_path / "best.safetensors")
    loaded = Recogniser.load(tmp_path)
    assert loaded.preprocessing == recogniser.preprocessing
    np.testing.assert_array_equal(loaded.probabilities(images(3)), recogniser.probabilities(images(3)))
    darker = (images(3) // 2).astype(np.uint8)
    np.testing.assert_allclose(loaded.probabilities(darker), loaded.probabilities(images(3)), atol=2e-3)
