"""A residual network for marks that are small and may be anywhere."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.models.cnn import global_average
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.models.resnet import BasicBlock
from imgrec_engine.nn.conv_norm import conv_norm
from imgrec_engine.tensor import Tensor


@register("resnet_max")
class ResNetMax(ImageModel):
    """A residual network that classifies the largest of its features beside their mean.

    Images of any size (N, H, W, in_channels) give logits (N, num_classes). A 3x3 convolution and 2x2 max-pooling come
    before three stages of one basic block, ``width`` to ``4 * width`` channels. A crack that fills a hundredth of the
    image is a hundredth of the mean over all positions, but it may be all of the maximum. Basic blocks: He, Zhang, Ren
    and Sun, CVPR 2016; the two poolings side by side: Woo, Park, Lee and Kweon, "CBAM", ECCV 2018, section 3.1.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: tuple[int, int], width: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        first = max(width // 2, 1)
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = BasicBlock(first, width)
        self.layer2 = BasicBlock(width, 2 * width, stride=2)
        self.layer3 = BasicBlock(2 * width, 4 * width, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x)
        x = F.max_pool2d(conv_norm(x, self.conv1, self.bn1, activation="relu"), 2)
        x = self.layer3(self.layer2(self.layer1(x)))
        pooled = F.concatenate([global_average(x), x.max(axis=(1, 2))], -1)
        logits: Tensor = self.fc(self.dropout(pooled))
        return logits
