"""Recurrent networks that read an image as a sequence of rows, from top to bottom."""

from __future__ import annotations

from imgrec_engine import nn
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor


class _RowReader(ImageModel):
    """The rows, as vectors of W * C numbers, go through a recurrent layer; its last state is classified."""

    def rows(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H, W * C): with channels last, a free reshape."""
        self.check_images(x, exact_size=True)
        height, width = self.image_size
        return x.reshape(x.shape[0], height, width * self.in_channels)


@register("rnn")
class RowRNN(_RowReader):
    """A tanh RNN that reads the image row by row; its last state is classified.

    Images (N, *image_size, in_channels) give logits (N, num_classes). Elman, "Finding Structure in Time", 1990; rows
    of an image as a sequence: Le, Jaitly and Hinton, 2015.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        hidden_size: int = 128,
        num_layers: int = 1,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.rnn = nn.RNN(image_size[1] * in_channels, hidden_size, num_layers)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        _, h_n = self.rnn(self.rows(x))
        logits: Tensor = self.classifier(h_n[-1])
        return logits


@register("lstm")
class RowLSTM(_RowReader):
    """An LSTM that reads the image row by row; its last state is classified.

    Images (N, *image_size, in_channels) give logits (N, num_classes). Hochreiter and Schmidhuber, "Long Short-Term
    Memory", 1997.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        hidden_size: int = 128,
        num_layers: int = 1,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.lstm = nn.LSTM(image_size[1] * in_channels, hidden_size, num_layers)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        _, (h_n, _) = self.lstm(self.rows(x))
        logits: Tensor = self.classifier(h_n[-1])
        return logits
