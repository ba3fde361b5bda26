"""What the default solver reaches on twenty pairs, and in what time: to compare one commit with another.

python -m benchmarks.twenty_pairs --steps 150 240 --out OUT.json

Five nets, seeds 0 to 3, λ = (¼, ¼, ¼, ¼): a teacher of width 32 trained on the digits 0 to 4 (or on noisy labels) in a
student of width 64. For each number of steps: the objective on all of D1 with fresh noise and eight probes, four draws,
and processor seconds of the solve without a certificate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time

import torch
from torch import Tensor, nn

import phiopt
from benchmarks.quality import cnn, digits, judged, mlp, noisy, smooth, train

LAMBDAS = (0.25, 0.25, 0.25, 0.25)


class Attention(nn.Module):
    """The eight rows of an image as tokens, and one layer of attention."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width // 2)
        self.attention = nn.MultiheadAttention(width // 2, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(width // 2), nn.Linear(width // 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x.unflatten(1, (8, 8)))
        z = z + self.attention(z, z, z, need_weights=False)[0]
        return self.head(self.norm(z).mean(1))


def tanh(width: int, classes: int) -> nn.Module:
    return mlp(width, classes, nn.Tanh)


NETS = {
    "mlp": (mlp, digits, 150),
    "half fitted": (mlp, digits, 25),
    "cnn": (cnn, digits, 150),
    "noisy labels": (smooth, noisy, 200),
    "tanh": (tanh, digits, 60),
    "attention": (Attention, digits, 60),
}
"""The net, the data, and the epochs of the teacher's training. The twenty pairs are those of the first five."""


def main() -> None:
    """Measure, and write the JSON after each pair."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[150])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS)[:5])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    for name in asked.nets:
        make, data, epochs = NETS[name]
        for seed in range(4):
            torch.manual_seed(seed)
            x, y, classes = data()
            teacher, student = make(32, classes), make(64, 10)
            train(teacher, x, y, epochs)
            problem = phiopt.pose(teacher, student, LAMBDAS, (x, y), seed=seed)
            row = {"start": judged(problem.objective, problem.start)}
            for steps in asked.steps:
                began = process_time()
                solver = phiopt.TorchOpt(steps=steps)
                solution = problem.solve(solver=solver, certificate=None, throw=False)
                seconds = process_time() - began
                row[f"{steps} steps"] = judged(problem.objective, solution.params)
                row[f"{steps} steps, s"] = seconds
            results[f"{name}, seed {seed}"] = dict(row)
            asked.out.write_text(json.dumps(results, indent=1))
            print(name, seed, row, flush=True)


if __name__ == "__main__":
    main()
