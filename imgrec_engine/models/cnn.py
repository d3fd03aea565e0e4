"""A small convolutional network, and the feature extractor that other models build on."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.nn.conv_norm import conv_norm
from imgrec_engine.tensor import Tensor


class ConvFeatures(nn.Module):
    """Three 3x3 convolutions with batch normalisation and ReLU, the first two followed by 2x2 max-pooling.

    x (N, H, W, in_channels) gives (N, H // 4, W // 4, 4 * width).
    """

    def __init__(self, in_channels: int, width: int) -> None:
        self.out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        x = F.max_pool2d(conv_norm(x, self.conv1, self.bn1, activation="relu"), 2)
        x = F.max_pool2d(conv_norm(x, self.conv2, self.bn2, activation="relu"), 2)
        return conv_norm(x, self.conv3, self.bn3, activation="relu")


def global_average(x: Tensor) -> Tensor:
    """The mean over all positions of a feature map: (N, H, W, C) to (N, C)."""
    return F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], x.shape[3])


@register("cnn")
class CNN(ImageModel):
    """Three convolutions with batch normalisation, global average pooling and a linear classifier.

    Images of any size (N, H, W, in_channels) give logits (N, num_classes). Batch normalisation: Ioffe and Szegedy,
    2015; global average pooling before the classifier: Lin, Chen and Yan, "Network in Network", 2014.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: tuple[int, int], width: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.features = ConvFeatures(in_channels, width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.features.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x)
        logits: Tensor = self.classifier(self.dropout(global_average(self.features(x))))
        return logits
