"""The networks that are grown: plain modules whose widths are arguments."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, on flattened images.

    ``relu_head``: a ReLU after the output layer too, as the paper's authors have it.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], classes: int, *, relu_head: bool = False
    ) -> None:
        super().__init__()
        self.relu_head = relu_head
        widths = [inputs, *hidden]
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(x)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits = self.head(x)
        return torch.relu(logits) if self.relu_head else logits

    def extra_repr(self) -> str:
        return "relu_head=True" if self.relu_head else ""


class CNN(nn.Module):
    """3×3 convolutions, each with max-pooling by 2 and ReLU, then one hidden layer and the head.

    ``norm``: batch normalisation after each convolution.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        maps: Sequence[int],
        hidden: int,
        classes: int,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels, *maps]
        convolutions = [nn.Conv2d(n, m, 3, padding=1) for n, m in pairwise(widths)]
        self.convolutions = nn.ModuleList(
            nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
            if norm
            else convolution
            for convolution in convolutions
        )
        self.pool = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(widths[-1] * (size // 2 ** len(maps)) ** 2, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            # The same as the pool of the ReLU, which has four times as much to do.
            x = torch.relu(self.pool(convolution(x)))
        return self.head(torch.relu(self.hidden(self.flatten(x))))


class LSTM(nn.Module):
    """An LSTM that reads an image row by row, all channels of a row at once; the head is on its end.

    ``features``: channels times width.
    """

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        states, _ = self.lstm(rows)
        return self.head(states[:, -1])


def built(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module as its constructor initialises it, a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory()
