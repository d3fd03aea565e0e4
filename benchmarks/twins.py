"""Our models written with PyTorch's layers, under the same state keys; images are (N, C, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvFeatures(nn.Module):
    """Three convolutions with batch normalisation and ReLU, two of them followed by pooling."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 width, H / 4, W / 4)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x)), inplace=True), 2)
        return F.relu(self.bn3(self.conv3(x)), inplace=True)


class CNN(nn.Module):
    """models.create("cnn")."""

    def __init__(self, classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.features = ConvFeatures(channels, 32)
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.classifier(self.features(x).mean((2, 3)))


class CNNLSTM(nn.Module):
    """models.create("cnn_lstm"), whose grid has 8 rows at most."""

    def __init__(self, classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.side = min(size // 4, 8)
        self.features = ConvFeatures(channels, 16)
        self.lstm = nn.LSTM(self.side * 64, 64, batch_first=True)
        self.classifier = nn.Linear(64 + 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        features = self.features(x)
        grid = features if features.shape[2] == self.side else F.adaptive_avg_pool2d(features, self.side)
        _, (h_n, _) = self.lstm(grid.permute(0, 2, 3, 1).flatten(2))
        return self.classifier(torch.cat([features.mean((2, 3)), h_n[-1]], 1))


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """As ours."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet18(nn.Module):
    """models.create("resnet18") for images of 64 pixels at most, without the large stem."""

    def __init__(self, classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for number, width in enumerate((64, 128, 256, 512), 1):
            first = BasicBlock(before, width, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, BasicBlock(width, width, 1)))
            before = width
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class VisionTransformer(nn.Module):
    """models.create("attention") for images of 64 pixels at most, on a side that 4 divides."""

    def __init__(self, classes: int, channels: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 64, 4, stride=4)
        self.positions = nn.Parameter(torch.zeros(1, (size // 4) ** 2, 64))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(64, 4, 128, 0.0, activation="gelu", batch_first=True, norm_first=True)
                for _ in range(4)
            )
        )
        self.norm = nn.LayerNorm(64)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.norm(self.layers(x)).mean(1))


TWINS = {"cnn": CNN, "resnet18": ResNet18, "cnn_lstm": CNNLSTM, "attention": VisionTransformer}
