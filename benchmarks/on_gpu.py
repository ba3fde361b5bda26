"""What φ costs on an accelerator, in at most eight minutes; one JSON with the device's name.

python -m benchmarks.on_gpu [--out on_gpu.json] [--device cuda] [--small] [--only step ...]

Parts that fail or run out of time are noted in the JSON with their error, and the others go on. The file is written
after each part. ``--small`` is for a trial on a machine without an accelerator; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torchopt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import phiopt
from benchmarks.test_call_cost import cnn
from phiopt.growth import GrowthMap
from phiopt.objective import CurvatureTerm, Stream
from phiopt.solve import solve_many

BUDGET = 450.0
"""Seconds after which no further part begins."""
FOUR, THREE = (0.3, 0.2, 0.3, 0.2), (0.4, 0.3, 0.3, 0.0)


class Bench:
    """The device, and the sizes of a run."""

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.rounds = 3 if small else 20

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object]) -> float:
        """The median of some calls, after two to warm up."""
        times = []
        for turn in range(self.rounds + 2):
            self.sync()
            began = perf_counter()
            call()
            self.sync()
            times += [perf_counter() - began] if turn >= 2 else []
        return sorted(times)[len(times) // 2]

    def data(self, count: int, *shape: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(count, *shape, device=self.device)
        return x, torch.randint(10, (count,), device=self.device)

    def nets(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        width = 2 if self.small else 32
        return cnn(width).to(self.device), cnn(2 * width).to(self.device)

    def posed(self, lambdas: tuple[float, ...], batch: int = 128) -> phiopt.Problem:
        return phiopt.pose(*self.nets(), lambdas, self.data(4 * batch, 1, 28, 28), batch_size=batch)

    def plain(self, student: nn.Module, batch: int = 128) -> Callable[[], object]:
        (x, y), parameters = self.data(batch, 1, 28, 28), list(student.parameters())
        return lambda: torch.autograd.grad(cross_entropy(student(x), y), parameters)

    def peak(self, call: Callable[[], object]) -> float | None:
        """Peak of the call in MiB; None where PyTorch does not count."""
        if self.device.type != "cuda":
            call()
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.sync()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    # The parts.

    def step(self) -> dict[str, Any]:
        """A step, in plain gradients of the same batch."""
        unit = self.seconds(self.plain(self.nets()[1]))
        result = {"plain gradient, s": unit}
        curvatures = {"default": phiopt.Frobenius(), "exact": phiopt.Frobenius(batch=None)}
        for name, lambdas, curvature in (
            ("four terms", FOUR, "default"),
            ("four terms, exact", FOUR, "exact"),
            ("no curvature", THREE, "default"),
        ):
            problem = self.posed(lambdas)
            objective = problem.objective.with_term(CurvatureTerm(curvatures[curvature]))
            sample = objective.sample(problem.start, 128, 0, Stream.STEP, 0)
            with torch.no_grad():
                call = lambda o=objective, p=problem, s=sample: o.value_and_grad(p.start, s)  # noqa: E731
                result[name] = self.seconds(call) / unit
        return result

    def whole_call(self) -> dict[str, Any]:
        """`initialize`, everything included, in plain gradients; and what was estimated."""
        teacher, student = self.nets()
        data, steps = self.data(512, 1, 28, 28), 5 if self.small else 150
        solver = phiopt.TorchOpt(steps=steps)
        unit, result = self.seconds(self.plain(student)), {}
        for name, lambdas in (("four terms", FOUR), ("no curvature", THREE)):
            cost = phiopt.estimate_cost(teacher, student, lambdas, data, solver=solver)
            began = perf_counter()
            phiopt.initialize(teacher, student, lambdas, data, solver=solver, throw=False)
            self.sync()
            took = perf_counter() - began
            result[name] = {"gradients": took / unit, "s": took, "estimated, s": cost.total}
        return result

    def lattice(self) -> dict[str, Any]:
        """Points λ a second, solved at once and one at a time."""
        problem, steps = self.posed(FOUR, 32), 2 if self.small else 30
        count = 4 if self.small else 64
        points = torch.distributions.Dirichlet(torch.ones(4)).sample((count,)).to(self.device)
        solver = phiopt.TorchOpt(steps=steps, batch_size=32)
        few = points[: max(2, count // 16)]

        def singly() -> None:
            for point in few:
                problem.solve(point, solver=solver, certificate=None, throw=False)

        began = perf_counter()
        solve_many(solver, [problem], points)
        self.sync()
        together = count / (perf_counter() - began)
        began = perf_counter()
        singly()
        self.sync()
        alone = len(few) / (perf_counter() - began)
        return {"at once": together, "one at a time": alone, "ratio": together / alone}

    def hypergradient(self) -> dict[str, Any]:
        """Peak memory of the derivative in λ, by number of steps."""
        teacher, student = self.nets()
        data, result = self.data(128, 1, 28, 28), {}
        for steps in (2, 4) if self.small else (10, 40):
            lambdas = torch.tensor(FOUR, device=self.device, requires_grad=True)

            def slope(steps: int = steps, lambdas: Tensor = lambdas) -> None:
                solution = phiopt.initialize(
                    teacher,
                    student,
                    lambdas,
                    data,
                    solver=phiopt.TorchOpt(torchopt.sgd(1e-2), steps=steps, batch_size=64),
                    adjoint=phiopt.Replay(),
                    certificate=None,
                    throw=False,
                )
                torch.autograd.grad(
                    sum(p.square().sum() for p in solution.params.values()), lambdas
                )

            result[f"{steps} steps, MiB"] = self.peak(slope)
        return result

    def compiled(self) -> dict[str, Any]:
        """The exact step compiled, against the same as it is."""
        problem = self.posed(FOUR)
        objective = problem.objective.with_term(CurvatureTerm(phiopt.Frobenius(batch=None)))
        sample = objective.sample(problem.start, 128, 0, Stream.STEP, 0)
        step = torch.compile(objective.value_and_grad)
        with torch.no_grad():
            eager = self.seconds(lambda: objective.value_and_grad(problem.start, sample))
            began = perf_counter()
            step(problem.start, sample)
            self.sync()
            first = perf_counter() - began
            after = self.seconds(lambda: step(problem.start, sample))
        return {
            "eager, s": eager,
            "compiled, s": after,
            "ratio": after / eager,
            "compile, s": first,
        }

    def bfloat16(self) -> dict[str, Any]:
        """A default step in bfloat16, against float32."""
        seconds = {}
        for dtype in (torch.float32, torch.bfloat16):
            nets = [net.to(dtype) for net in self.nets()]
            x, y = self.data(512, 1, 28, 28)
            problem = phiopt.pose(*nets, FOUR, (x.to(dtype), y))
            sample = problem.objective.sample(problem.start, 128, 0, Stream.STEP, 0)
            with torch.no_grad():
                call = lambda p=problem, s=sample: p.objective.value_and_grad(p.start, s)  # noqa: E731
                seconds[str(dtype)] = self.seconds(call)
        return seconds | {"ratio": seconds["torch.bfloat16"] / seconds["torch.float32"]}

    def growth(self) -> dict[str, Any]:
        """Map and growth of large pairs."""
        from torchvision import models

        pairs: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
            "ResNet-50 to Wide-50-2": lambda: (models.resnet50(), models.wide_resnet50_2())
        }
        if not self.small:
            import timm

            names = "vit_small_patch16_224", "vit_base_patch16_224"
            pairs["ViT-S to B"] = lambda: tuple(timm.create_model(name) for name in names)
        result = {}
        for name, make in pairs.items():
            teacher, student = (model.eval().to(self.device) for model in make())
            x = torch.rand(2, 3, 224, 224, device=self.device)
            began = perf_counter()
            growth = GrowthMap.between(teacher, student, inputs=x)
            self.sync()
            mapped = perf_counter() - began
            began = perf_counter()
            phiopt.grow(teacher, student, "zero-out", map=growth)
            self.sync()
            result[name] = {"map, s": mapped, "grow, s": perf_counter() - began}
        return result


PARTS = ("step", "whole_call", "lattice", "hypergradient", "bfloat16", "growth", "compiled")


def main() -> None:
    """Run the parts and write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", phiopt.PhioptWarning)  # the labels are random
    bench, began = Bench(asked.device, asked.small), perf_counter()
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.machine()
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "small": asked.small}
    for part in asked.only:
        start = perf_counter()
        if start - began > BUDGET:
            results[part] = {"error": "no time was left"}
            continue
        try:
            results[part] = getattr(bench, part)()
        except Exception as error:
            results[part] = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
        results[part]["seconds in all"] = perf_counter() - start
        asked.out.write_text(json.dumps(results, indent=1))
        print(part, results[part], flush=True)


if __name__ == "__main__":
    main()
