"""Work killed at random moments and begun again: ``python -m tests.kills WORK FOLDER KILLS SEED`` prints counts.

The work runs in forks of this process. Every second kill strikes after a random time, the others within a random write
to disk, of which half is done.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import phiopt
from experiments import ablation, schema, study
from experiments.methods import Descent, Phi
from experiments.records import RunDirectory
from experiments.report import figures, simplex
from experiments.train import Recipe
from phiopt._files import write_text
from phiopt.solve import checkpoint, saved_state
from tests.experiments.cases import CPU, study_task
from tests.experiments.test_ablation import case

RECIPE = Recipe(budget=8, batch_size=64, learning_rates=(1e-3,))
PHI = Phi(phiopt.Corruption(0.3), 16, Descent(2, 1e-3), Descent(2, 1e-3), restrict_classes=True)
TASK = study_task(RECIPE, PHI)
SOLUTION = "solution.safetensors"


def experiment(out: Path) -> None:
    directory = RunDirectory(out, study.settings("test", [TASK]))
    study.finish(TASK, ("scratch", "default", "phi"), (0, 1), directory, CPU, ".svg")


def search(out: Path) -> None:
    ablation.run(["small"], (0, 1), 1, None, CPU, out)


def solution(out: Path) -> None:
    """Saved again and again, two of them in turn."""
    for number in range(40):
        SOLVED[number % 2].save(out / SOLUTION)


def net(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def solved() -> list[phiopt.Solution]:
    few = phiopt.TorchOpt(steps=2)
    data = torch.randn(8, 3), torch.arange(8) % 2
    return [
        phiopt.initialize(net(2), net(300), (share, 1 - share, 0, 0), data, solver=few, throw=False)
        for share in (0.1, 0.9)
    ]


def learn(out: Path) -> None:
    torch.manual_seed(0)
    data, held_out = ((torch.randn(24, 3), torch.arange(24) % 2) for _ in range(2))
    actual = phiopt.learn(
        net(2),
        net(4),
        data,
        phiopt.OuterLoss(held_out),
        lambdas=(0.4, 0.3, 0.3, 0),
        parameters=("lambdas", "delta"),
        solver=phiopt.TorchOpt(steps=2, batch_size=16),
        search=phiopt.Mirror(budget=11),
        directory=out / "search",
    )
    params = {name: value.tolist() for name, value in actual.solution.params.items()}
    path = [{**asdict(trial), "status": str(trial.status)} for trial in actual.path]
    result = {"text": str(actual), "outer": actual.outer, "path": path, "params": params}
    write_text(out / "learned.json", json.dumps(result))


def solve(out: Path) -> None:
    """One solve, which writes its state after every step."""
    checkpoint.PAUSE, checkpoint.SHARE = 0.0, 1e9
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(24, 3), torch.arange(24) % 2)
    path = out / "state.safetensors"
    solution = phiopt.initialize(
        net(2),
        net(4),
        (0.3, 0.3, 0.2, 0.2),
        DataLoader(data, batch_size=8, shuffle=True),
        solver=phiopt.TorchOpt(steps=15, check_every=4),
        checkpoint=path,
        resume=path if path.exists() else None,
    )
    params = {name: value.tolist() for name, value in solution.params.items()}
    result = {"params": params, "history": solution.history, "stats": asdict(solution.stats)}
    write_text(out / "solved.json", json.dumps(result))


WORKS: dict[str, Callable[[Path], None]] = {
    "experiment": experiment,
    "search": search,
    "solution": solution,
    "learn": learn,
    "solve": solve,
}


def content(out: Path) -> dict[str, object]:
    """What a reader accepts as results, times apart."""
    actual: dict[str, object] = {}
    for path in sorted(out.rglob("[!.]*")):
        name = str(path.relative_to(out))
        if path.name == SOLUTION:
            loaded = phiopt.Solution.load(path, net(300))
            same = [
                all(torch.equal(loaded.params[n], p) for n, p in each.params.items())
                for each in SOLVED
            ]
            assert same in ([True, False], [False, True])
        elif path.parent.name == "solutions":
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["phiopt"])
            tensors = {key: value.tolist() for key, value in load_file(path).items()}
            actual[name] = tensors, timeless(header)
        elif path.name == "state.safetensors":
            saved_state.read(path)
        elif path.suffix == ".safetensors":
            actual[name] = path.read_bytes()
        elif path.suffix == ".json":
            actual[name] = timeless(schema.read(path, schema.anything))
        elif path.suffix == ".csv":
            actual[name] = untimed(path.read_text())
        elif path.suffix == ".md":
            actual[name] = path.read_text()
    return actual


def timeless(value: object) -> object:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "environment")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def untimed(text: str) -> list[list[str]]:
    first, *rows = [line.split(",") for line in text.splitlines()]
    keep = [i for i, column in enumerate(first) if column != "seconds"]
    return [[row[i] for i in keep if i < len(row)] for row in (first, *rows)]


def begun(work: Callable[[Path], None], out: Path, strike: int | None = None) -> int:
    """A process that does the work, and kills itself within its write number ``strike``."""
    if (process := os.fork()) == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            torch.set_num_threads(
                1
            )  # a fork has none of its parent's OpenMP threads, and would wait for them
            if strike is not None:
                killed_within_a_write(strike)
            work(out)
            code = 0
        finally:
            os._exit(code)
    return process


def killed_within_a_write(strike: int) -> None:
    left = strike

    def struck() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(write: Callable[..., int]) -> Callable[..., int]:
        def writing(path: Path, data: str | bytes, **options: str) -> int:
            if struck():
                write(path, data[: len(data) // 2], **options)
                stop()
            return write(path, data, **options)

        return writing

    rename = os.replace

    def replaced(*arguments: Path) -> None:
        if struck():
            stop()
        rename(*arguments)
        if struck():
            stop()

    Path.write_bytes, Path.write_text = half(Path.write_bytes), half(Path.write_text)  # type: ignore[method-assign, assignment]
    os.replace = replaced  # type: ignore[assignment]


def ended(process: int) -> int | None:
    """The exit code, None if it was killed."""
    _, status = os.waitpid(process, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def campaign(name: str, folder: Path, kills: int, seed: int) -> dict[str, int]:
    work, draw = WORKS[name], random.Random(seed)
    whole = folder / "whole"
    whole.mkdir()
    began = time.perf_counter()
    assert ended(begun(work, whole)) == 0
    takes, wanted = time.perf_counter() - began, content(whole)
    counts = dict.fromkeys(("kills", "by time", "in a write", "runs", "two at once"), 0)
    while counts["kills"] < kills:
        out = folder / f"run-{counts['runs']}"
        out.mkdir()
        # A few kills a run, so that what is begun comes to its end.
        for _ in range(draw.randint(1, 6)):
            timed = counts["kills"] % 2 == 0
            process = begun(work, out, None if timed else draw.randint(0, 40))
            if timed:
                time.sleep(draw.uniform(0, takes))
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if ended(process) is None:
                counts["kills"] += 1
                counts["by time" if timed else "in a write"] += 1
            content(out)  # can be read, whatever is there
            if counts["kills"] == kills:
                break
        others = [begun(work, out) for _ in range(1 if name in ("solution", "solve") else 2)]
        counts["two at once"] += len(others) == 2
        assert [ended(process) for process in others] == [0] * len(others)
        result = content(out)
        different = [key for key in wanted | result if wanted.get(key) != result.get(key)]
        assert not different, (out, different)
        counts["runs"] += 1
        shutil.rmtree(out)
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    figures.every = lambda *_: {}  # type: ignore[assignment]  # drawn from the tables' numbers, and slow
    simplex.every = lambda *_: {}  # type: ignore[assignment]
    ablation.cases = lambda *_, **__: [case()]  # type: ignore[assignment]
    SOLVED = solved() if sys.argv[1] == "solution" else []
    counted = campaign(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(counted))
