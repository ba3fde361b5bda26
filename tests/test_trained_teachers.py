"""A solve from a teacher that was trained to the end: the default rate does not raise the objective for good."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import phiopt
from phiopt.solve import Status

KEEP = (0.9, 0.1, 0, 0)
"""λ at which the start is all but a minimum of a trained teacher's objective."""


def mlp(width, activation=nn.ReLU):
    layers = [nn.Linear(64, width), activation(), nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 5))


def convolutions(width):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(9 * width, 5),
    )


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, width):
        super().__init__()
        self.rows, self.head = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.rows(x.view(-1, 8, 8))[0][:, -1])


class Attention(nn.Module):
    """An encoder over the rows of an image."""

    def __init__(self, width):
        super().__init__()
        self.rows, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.rows(x.view(-1, 8, 8))).mean(1))


KINDS = {
    "relu": mlp,
    "tanh": lambda width: mlp(width, nn.Tanh),
    "convolutions": convolutions,
    "lstm": Recurrent,
    "attention": Attention,
}


def digits():
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    return images[labels < 5].float() / 16, labels[labels < 5]


def trained(kind, seed):
    """A teacher whose loss has come to rest, and its student."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher, student = KINDS[kind](16), KINDS[kind](32)
        x, y = digits()
        optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-2)
        for _ in range(1500):
            rows = torch.randperm(len(x))[:128]
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(x[rows]), y[rows]).backward()
            optimizer.step()
    return teacher.eval(), student.eval(), (x, y)


CASES = [
    pytest.param(kind, seed, marks=() if (kind, seed) == ("relu", 0) else pytest.mark.slow)
    for kind in KINDS
    for seed in range(10)
]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_a_default_solve_does_not_diverge(kind, seed):
    teacher, student, data = trained(kind, seed)
    solution = phiopt.initialize(
        teacher, student, KEEP, data, start="zero-out", seed=seed, throw=False
    )
    assert solution.status is Status.BUDGET_SPENT
    assert solution.start_objective < 0.05  # the teacher has learned all there is
    assert solution.objective < solution.start_objective
