"""Models written by hand: functional forwards, gates, parameters used bare, loops over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Branches(nn.Module):
    """Two branches of unequal width, concatenated, with tensors used bare in ``forward``."""

    def __init__(self, left: int, right: int, hidden: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(left, 3, 3, 3))
        self.right = nn.Conv2d(3, right, 1)
        self.scale = nn.Parameter(torch.zeros(left + right, 1, 1))
        self.hidden = nn.Linear((left + right) * 16, hidden)
        self.head = nn.Parameter(torch.zeros(10, hidden))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.conv2d(x, self.left, padding=1), self.right(x).tanh()], 1)
        x = F.adaptive_avg_pool2d((x * self.scale).relu(), 4)
        return F.silu(self.hidden(x.reshape(len(x), -1))) @ self.head.T


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate of their own means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.down, self.up = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return self.head((x * gate[:, :, None, None]).relu().amax((2, 3)))


class Shuffled(nn.Module):
    """Grouped convolutions with a channel shuffle by view and transpose between them."""

    def __init__(self, width: int, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.stem = nn.Conv2d(3, width, 1)
        self.first = nn.Conv2d(width, width, 3, groups=groups)
        self.second = nn.Conv2d(width, width, 3, groups=groups)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).relu())
        b, c, h, w = x.shape
        x = x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(self.second(x.relu()).relu().mean((2, 3)))


class Mixer(nn.Module):
    """MLP-Mixer: MLPs over tokens and over channels in turn."""

    def __init__(self, width: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(16, tokens), nn.GELU(), nn.Linear(tokens, 16))
        self.channels = nn.Sequential(
            nn.Linear(width, channels), nn.GELU(), nn.Linear(channels, width)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class UNet(nn.Module):
    """An encoder and a decoder joined by a concatenation, up by a transposed convolution."""

    def __init__(self, width: int, deep: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.deep = nn.Sequential(nn.Conv2d(width, deep, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(deep, width, 2, 2)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        x = self.up(self.deep(F.max_pool2d(skip, 2)))
        return self.head(self.join(torch.cat([x, skip], 1)).relu())


class LowRank(nn.Module):
    """Layers factorised into two thin ones, whose rank grows by itself."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.u, self.v = (
            nn.Parameter(torch.zeros(hidden, rank)),
            nn.Parameter(torch.zeros(rank, 48)),
        )
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Sequential(nn.Linear(hidden, rank, bias=False), nn.Linear(rank, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(F.linear(x.flatten(1), self.u @ self.v, self.bias)))


class Highway(nn.Module):
    """Gates that mix a layer with its input: g h + (1 - g) x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(12, width)
        self.gate, self.layer = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        g = self.gate(x).sigmoid()
        return self.head(g * self.layer(x).relu() + (1 - g) * x)


class Shared(nn.Module):
    """One block applied three times, its norm without parameters of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.block, self.head = (
            nn.Linear(12, width),
            nn.Linear(width, width),
            nn.Linear(width, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        for _ in range(3):
            x = x + self.block(x).tanh()
        return self.head(x)


class Fire(nn.Module):
    """SqueezeNet's fire module."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1, self.expand3 = (
            nn.Conv2d(squeeze, expand, 1),
            nn.Conv2d(squeeze, expand, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1(x).relu(), self.expand3(x).relu()], 1)


def fires(width: int) -> nn.Module:
    """SqueezeNet in small: a convolution as classifier, then the mean."""
    return nn.Sequential(
        nn.Conv2d(3, 2 * width, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(2 * width, width, 2 * width), Fire(4 * width, width, 3 * width),
        nn.Conv2d(6 * width, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
