"""The figure that the engine must reach on real images: a small cnn on the first 10,000 images of Fashion-MNIST."""

import pytest

import imgrec_engine as ie
from imgrec_engine import data, optim
from imgrec_engine.errors import DataError
from imgrec_engine.train import Trainer

EPOCHS, LEARNING_RATE = 5, 1e-2


def test_a_small_cnn_recognises_fashion_mnist():
    try:
        whole, test = data.load_train_test("fashion-mnist")
    except DataError as error:
        pytest.skip(str(error))
    train = data.Subset(whole, range(10_000))
    preprocessing = data.Preprocessing.measure(train)
    batches = data.DataLoader(train, 32, shuffle=True, transform=preprocessing.compose())
    model = ie.models.create("cnn", num_classes=10, in_channels=1, image_size=28, width=16)
    optimizer = optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = optim.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=EPOCHS * len(batches))
    trainer = Trainer(model, optimizer, scheduler=schedule)
    for _ in range(EPOCHS):
        trainer.train_epoch(batches)
    evaluation = trainer.evaluate(data.DataLoader(test, 500, transform=preprocessing.compose()))
    assert evaluation.accuracy >= 0.85
