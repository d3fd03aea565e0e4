"""Residual networks (He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.models.cnn import global_average
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.nn.conv_norm import conv_norm
from imgrec_engine.tensor import Tensor

LARGEST_SMALL_IMAGE = 64  # pixels; above it networks of four stages begin as the paper's, with 1/16 of the positions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, H, W, C_in) to (N, ceil(H / stride), ceil(W / stride), C_out).

    Where the shape changes, the shortcut is a 1x1 convolution (the paper's option B). State keys are torchvision's.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """relu(F(x) + shortcut(x))."""
        y = conv_norm(x, self.conv1, self.bn1, activation="relu")
        y = conv_norm(y, self.conv2, self.bn2)
        return F.relu(y + self.downsample(x))


class ResNet(ImageModel):
    """A stem, stages of basic blocks, each but the first at half the size, global average pooling and a classifier."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        blocks: int,
        large_stem: bool,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.large_stem = large_stem
        if large_stem:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self._stages = []
        channels = widths[0]
        for number, width in enumerate(widths, 1):
            first = BasicBlock(channels, width, stride=1 if number == 1 else 2)
            stage = nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))
            setattr(self, f"layer{number}", stage)
            self._stages.append(stage)
            channels = width
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x)
        x = conv_norm(x, self.conv1, self.bn1, activation="relu")
        if self.large_stem:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in self._stages:
            x = stage(x)
        logits: Tensor = self.fc(global_average(x))
        return logits


@register("resnet20")
class ResNet20(ResNet):
    """The residual network of 20 layers for small images: three stages of three blocks, 16, 32 and 64 channels.

    Images of any size (N, H, W, in_channels) give logits (N, num_classes). Section 4.2 of the paper, with 1x1
    convolutions as shortcuts where it pads with zeros.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(num_classes, in_channels, image_size, widths=(16, 32, 64), blocks=3, large_stem=False)


@register("resnet18")
class ResNet18(ResNet):
    """The residual network of 18 layers: four stages of two blocks, 64 to 512 channels; torchvision's state keys.

    Images (N, H, W, in_channels) give logits (N, num_classes). For images of more than 64 pixels on a side it begins
    with the paper's 7x7 convolution of stride 2 and max-pooling; for smaller ones, which that would shrink to almost
    nothing, with a 3x3 convolution of stride 1, as is the custom for CIFAR.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        large_stem = max(image_size) > LARGEST_SMALL_IMAGE
        super().__init__(num_classes, in_channels, image_size, (64, 128, 256, 512), blocks=2, large_stem=large_stem)


@register("resnet10")
class ResNet10(ResNet):
    """A residual network of 10 layers: four stages of one block, ``width`` to ``8 * width`` channels.

    Images (N, H, W, in_channels) give logits (N, num_classes). It is `ResNet18` (table 1 of the paper) with half as
    many blocks and, by default, a quarter of the channels. With `ResNet20`'s number of weights it takes half its time,
    as more of them are where the feature maps are small.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int], width: int = 16) -> None:
        widths = (width, 2 * width, 4 * width, 8 * width)
        super().__init__(num_classes, in_channels, image_size, widths, 1, max(image_size) > LARGEST_SMALL_IMAGE)
