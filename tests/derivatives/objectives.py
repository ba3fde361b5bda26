"""Random objectives, in some of which a derivative is cut."""

from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from phiopt.objective import Corruption, Frobenius, Gaussian, Lambdas, Spectral, Uniform
from tests.derivatives.planted import CUTS, HARMLESS, MIXING, TWICE


def with_weight(function):
    return isinstance(function, FunctionType) and function.__code__.co_argcount == 2


class Calling(nn.Module):
    """A function of activations, and of a weight if it takes two arguments."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        if with_weight(function):
            self.weight = nn.Parameter(torch.tensor([1.3]))

    def forward(self, x):
        return self.function(x, self.weight) if with_weight(self.function) else self.function(x)


class Last(nn.Module):
    """The last output of a recurrent net."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0][:, -1]


class Attending(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (x + F.scaled_dot_product_attention(q, k, v)).mean(1)


# Parts before and after the place where something is planted, for inputs of the shape given.
NETS = {
    "tanh": ((4,), lambda: ([nn.Linear(4, 5), nn.Tanh()], [nn.Linear(5, 3)])),
    "relu": (
        (4,),
        lambda: ([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)], [nn.ReLU(), nn.Linear(5, 3)]),
    ),
    "gelu": ((4,), lambda: ([nn.Linear(4, 5)], [nn.GELU(), nn.Linear(5, 3), nn.Softplus()])),
    "norm": ((4,), lambda: ([nn.Linear(4, 5), nn.LayerNorm(5)], [nn.SiLU(), nn.Linear(5, 3)])),
    "batch norm": (
        (4,),
        lambda: ([nn.Linear(4, 5), nn.BatchNorm1d(5)], [nn.Tanh(), nn.Linear(5, 3)]),
    ),
    "convolutions": (
        (1, 5, 5),
        lambda: ([nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten()], [nn.Linear(18, 3)]),
    ),
    "pooled": (
        (1, 6, 6),
        lambda: ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()], [nn.Linear(8, 3)]),
    ),
    "group norm": (
        (2, 4, 4),
        lambda: (
            [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ELU(), nn.Flatten()],
            [nn.Linear(16, 3)],
        ),
    ),
    "recurrent": ((3, 2), lambda: ([Last(nn.GRU(2, 4, batch_first=True))], [nn.Linear(4, 3)])),
    "attention": ((3, 4), lambda: ([Attending(4)], [nn.Linear(4, 3)])),
    "tokens": (
        None,
        lambda: ([nn.Embedding(6, 2, padding_idx=0), nn.Flatten()], [nn.Linear(6, 3)]),
    ),
}
LOSSES = {
    "cross-entropy": lambda o, y: F.cross_entropy(o, y, reduction="none"),
    "smoothed": lambda o, y: F.cross_entropy(o, y, reduction="none", label_smoothing=0.1),
    "weighted": lambda o, y: F.cross_entropy(
        o, y, torch.tensor([0.5, 1.0, 2.0]).to(o), reduction="none"
    ),
    "squares": lambda o, y: (o - F.one_hot(y, 3)).square().sum(1),
    "mse": lambda o, y: F.mse_loss(o, F.one_hot(y, 3).to(o), reduction="none").mean(1),
    "absolute": lambda o, y: (o - F.one_hot(y, 3)).abs().mean(1) + 0.1 * o.square().sum(1),
    "huber": lambda o, y: F.smooth_l1_loss(o, F.one_hot(y, 3).to(o), reduction="none").mean(1),
    "cosine": lambda o, y: 1 - F.cosine_similarity(o, F.one_hot(y, 3).to(o)),
    "focal": lambda o, y: (
        (1 - o.softmax(1)[range(len(y)), y]) ** 2 * F.cross_entropy(o, y, reduction="none")
    ),
    "hinge": lambda o, y: F.relu(1 - o.gather(1, y[:, None])[:, 0] + o.logsumexp(1)),
}
LAMBDAS = [
    (0.6, 0.4, 0, 0), (0, 0.4, 0.6, 0), (0, 0.3, 0, 0.7), (0.25, 0.25, 0.25, 0.25), (0.4, 0.3, 0.3, 0),
    (0.3, 0.3, 0, 0.4), (0.001, 0.998, 0.001, 0), (0, 0.2, 0.4, 0.4), (0.999, 0.001, 0, 0),
    (0, 0.001, 0.999, 0), (0, 0.001, 0, 0.999), (0, 1, 0, 0),
]  # fmt: skip
NEIGHBOURHOODS = [
    Uniform(0.2), Uniform(0.3, norm=2, samples=2), Uniform(0.1, clip=(-0.5, 0.5)), Gaussian(0.2, samples=2),
    Gaussian(0.1, samples=2, sampling="antithetic"), Corruption(0.3, samples=2),
    Uniform(0.2, samples=2, sampling="sobol"),
]  # fmt: skip
CURVATURES = [
    Frobenius(), Frobenius(probes=3, distribution="gaussian"),
    Frobenius(matrix="gauss-newton"), Spectral(),
]  # fmt: skip
PLANTED = {"cut": CUTS, "twice": TWICE, "harmless": HARMLESS, "nothing": {"nothing": lambda x: x}}


@dataclass
class Case:
    """What `problem` takes, with something ``planted`` in the layer or loss ``place``, and with its
    clean twin.
    """

    seed: int
    names: tuple[str, ...]
    kind: str  # of PLANTED
    place: str | None  # the layer's name, or None for the loss
    given: tuple[nn.Module, Any]
    clean: tuple[nn.Module, Any]
    data: tuple[torch.Tensor, torch.Tensor]
    lambdas: Lambdas
    options: dict[str, Any]

    def __str__(self):
        place = "the loss" if self.place is None else f"layer {self.place}"
        return f"{self.seed}: {self.kind} in {place}, {', '.join(self.names)}, {self.lambdas}"


def case(seed):
    """The case of this seed, the same always."""
    random = np.random.default_rng(seed)

    def one_of(choices):
        return choices[random.integers(len(choices))]

    kind = one_of(["cut", "cut", "twice", "harmless", "nothing"])
    planted = one_of(list(PLANTED[kind]))
    pair = PLANTED[kind][planted]
    pair = pair if isinstance(pair, tuple) else (pair, pair)
    in_net, net, loss = one_of([True, False]), one_of(list(NETS)), one_of(list(LOSSES))
    shape, make = NETS[net]
    possible = [i for i in range(len(LAMBDAS)) if shape is not None or LAMBDAS[i][2] == 0]
    lambdas = Lambdas(*LAMBDAS[one_of(possible)])
    models = [_model(make, f if in_net else None, seed) for f in pair]
    losses = [LOSSES[loss] if in_net else _loss(LOSSES[loss], f) for f in pair]
    given, clean = zip(models, losses, strict=True)
    clean = clean if len(set(pair)) == 2 else given
    source = torch.Generator().manual_seed(seed)
    x = torch.randint(6, (6, 3), generator=source)
    if shape is not None:
        x = torch.randn(6, *shape, generator=source, dtype=torch.float64)
    y = torch.randint(3, (6,), generator=source)
    options = {"curvature": one_of(CURVATURES), "micro_batch": one_of([None, None, 4])}
    if planted in MIXING:
        del options["micro_batch"]
    if shape is not None:
        options["neighbourhood"] = one_of(NEIGHBOURHOODS)
    names = (planted, net, loss, *(str(value) for value in options.values()))
    place = str(len(make()[0])) if in_net else None
    return Case(seed, names, kind, place, given, clean, (x, y), lambdas, options)


def _model(make, function, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        before, after = make()
    return nn.Sequential(*before, Calling(function or (lambda x: x)), *after).double()


def _loss(loss, function):
    """The same of other outputs; a weight is made of them."""
    if with_weight(function):
        return lambda o, y: loss(function(o, 1 + o.sigmoid().mean(1, keepdim=True)), y)
    return lambda o, y: loss(function(o), y)
