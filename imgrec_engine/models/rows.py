"""Recurrent networks that read an image as a sequence of rows, from top to bottom."""

from __future__ import annotations

from imgrec_engine import functional as F
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


@register("lstm_attention")
class RowLSTMAttention(_RowReader):
    """An LSTM over the rows in both directions; what attention takes from its states, and the last one, are classified.

    Images (N, *image_size, in_channels) give logits (N, num_classes). Each of ``num_heads`` heads gives every row a
    weight, softmax over the rows of w tanh(W h_t), and takes the mean of the states h_t that these make. Lin et al., "A
    structured self-attentive sentence embedding", ICLR 2017; scores of that form: Bahdanau, Cho and Bengio, ICLR 2015.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        hidden_size: int = 128,
        num_layers: int = 1,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.lstm = nn.LSTM(image_size[1] * in_channels, hidden_size, num_layers, dropout, bidirectional=True)
        self.score_hidden = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, num_heads, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden_size * (num_heads + 1), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        states, (h_n, _) = self.lstm(self.rows(x))
        scores = self.score(self.score_hidden(states, activation="tanh"))
        weights = F.softmax(scores.permute(0, 2, 1))
        attended = (weights @ states).reshape(len(x), -1)
        joined = F.concatenate([attended, h_n[-2], h_n[-1]], -1)
        logits: Tensor = self.classifier(self.dropout(joined))
        return logits
