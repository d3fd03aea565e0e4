"""Convolutional features aggregated by attention."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.creation import zeros
from imgrec_engine.models.cnn import ConvFeatures, global_average
from imgrec_engine.models.cnn_lstm import on_grid, sequence_grid
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor


@register("cnn_attention")
class CNNAttention(ImageModel):
    """CNN features related by self-attention; the mean of its tokens beside the pooled CNN features is classified.

    Images (N, H, W, in_channels) give logits (N, num_classes). The positions of the feature map (H // 4, W // 4),
    pooled to 8 x 8 at most, are the tokens, with learned positions added. In the line of the hybrid models of
    Dosovitskiy et al., ICLR 2021.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        width: int = 16,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.grid = sequence_grid(image_size)
        self.features = ConvFeatures(in_channels, width)
        channels = self.features.out_channels
        self.positions = nn.Parameter(zeros((1, self.grid[0] * self.grid[1], channels)))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.attention = nn.TransformerEncoderLayer(
            channels, num_heads, 2 * channels, dropout, activation="gelu", norm_first=True
        )
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(2 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x)
        features = self.features(x)
        tokens = on_grid(features, self.grid).reshape(len(x), -1, features.shape[3])
        tokens = self.norm(self.attention(tokens + self.positions))
        joined = F.concatenate([global_average(features), tokens.mean(axis=1)], -1)
        logits: Tensor = self.classifier(joined)
        return logits
