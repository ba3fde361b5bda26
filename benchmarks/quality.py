"""What cheap steps cost in quality: the objective that they reach, paired with exact ones.

python -m benchmarks.quality [--seeds 4] [--first 0] [--steps 150] [--regimes fitted ...]

Digits 0 to 4 (or labels with noise), a teacher grown to a student twice as wide with ten classes,
λ = (¼, ¼, ¼, ¼), batches of 128. Every seed has a teacher, a student and draws of its own; all settings of a seed share
them. What is judged is the solver's result, on all of D1 with fresh noise and probes. "log ratio" is
the mean of log(objective / that of exact steps) ± its standard error, so 0.01 is 1 %.
"""

import argparse
import statistics
from dataclasses import replace
from math import log

import torch
from sklearn.datasets import load_digits
from torch import nn

from phiopt.objective import CurvatureTerm, Frobenius, Lambdas, Stream
from phiopt.optimizers import decaying_adam
from phiopt.pose import pose
from phiopt.solve import TorchOpt

EXACT = Frobenius(batch=None)
SAME_COST = 3
"""An exact step costs about so many default ones (benchmarks/test_gradient_cost.py)."""


def mlp(width: int, classes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width),
        activation(),
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, classes),
    )


def cnn(width: int, classes: int) -> nn.Module:
    w = width // 8
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, w, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(w, 2 * w, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * w, 4 * w),
        nn.ReLU(),
        nn.Linear(4 * w, classes),
    )


def smooth(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width // 4), nn.Tanh(), nn.Linear(width // 4, classes))


def digits() -> tuple[torch.Tensor, torch.Tensor, int]:
    pixels, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    return (pixels[labels < 5] / 16).float(), labels[labels < 5], 5


def noisy() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Labels that no net can tell: the objective's minimum is far from 0."""
    x, weight, noise = torch.randn(600, 6), torch.randn(6, 3), torch.randn(600, 3)
    return x, (x @ weight + 1.5 * noise).argmax(1), 3


REGIMES = {
    "fitted": (mlp, digits, 150),
    "half fitted": (mlp, digits, 25),
    "convolutional": (cnn, digits, 150),
    "noisy labels": (smooth, noisy, 200),
}
"""The net, the data, and the epochs of the teacher's training."""


def settings(steps: int) -> dict[str, tuple[Frobenius, TorchOpt]]:
    plain = TorchOpt(decaying_adam(steps, 3e-3), steps=steps)
    given = TorchOpt(steps=steps)
    return {
        "exact": (EXACT, given),
        "default": (Frobenius(), given),
        "default, same cost": (Frobenius(), replace(given, steps=round(SAME_COST * steps))),
        "default, every 4th": (Frobenius(every=4), given),
        "exact, not normalised": (EXACT, plain),
    }


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def posed(regime: str, seed: int):
    """The problem of a seed, in relative terms."""
    net, data, epochs = REGIMES[regime]
    torch.manual_seed(seed)
    x, y, classes = data()
    teacher, student = net(32, classes), net(64, 10)
    train(teacher, x, y, epochs)
    return pose(teacher, student, Lambdas(0.25, 0.25, 0.25, 0.25), (x, y), seed=seed)


@torch.no_grad()
def judged(objective, params) -> float:
    judge = objective.with_term(CurvatureTerm(Frobenius(probes=8)))
    draws = [judge.sample(params, None, 9, Stream.FRESH, i) for i in range(4)]
    return float(torch.stack([judge.value(params, draw) for draw in draws]).mean())


def row(name: str, values: list[float], exact: list[float]) -> str:
    logs = [log(value / base) for value, base in zip(values, exact, strict=True)]
    error = statistics.stdev(logs) / len(logs) ** 0.5 if len(logs) > 1 else 0.0
    mean = statistics.mean(logs)
    return f"| {name} | {statistics.mean(values):.4f} | {mean:+.3f} ± {error:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    chosen = parser.parse_args()
    tried = settings(chosen.steps)
    for regime in chosen.regimes:
        objectives: dict[str, list[float]] = {name: [] for name in ("start", *tried)}
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            problem = posed(regime, seed)
            objective, start = problem.objective, problem.start
            objectives["start"].append(judged(objective, start))
            for name, (curvature, solver) in tried.items():
                changed = objective.with_term(CurvatureTerm(curvature))
                outcome = solver.solve(changed, start, seed=seed)
                objectives[name].append(judged(objective, outcome.params))
        print(f"\n| {regime} | objective | log ratio |\n| --- | --- | --- |")
        for name, values in objectives.items():
            print(row(name, values, objectives["exact"]), flush=True)


if __name__ == "__main__":
    main()
