"""A lattice on the simplex of λ, and `phiopt.learn` from the simplex's centre against its best point.

Three tasks: ``digits`` (the demo's class growth), ``classes`` (the same on Fashion-MNIST) and
``noise`` (one data set, the students judged on noisy images alone).  Both sides have the same draws
and the same outer loss, on the validation part of D2; their work is counted in gradients of φ's
objective.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import phiopt
from experiments import basic, classes, demo, lattice, schema, study
from experiments.checks import data_root
from experiments.data import fashion_mnist
from experiments.errors import UsageError
from experiments.lattice import CHUNK, FLOOR, HORIZON, Case, Point, Scene, finite
from experiments.methods import Descent
from experiments.names import ABLATIONS
from experiments.records import RunDirectory, environment, write_text
from experiments.report.ablation import described, show_and_write
from experiments.scales import SCALES, Scale

CENTRE = (0.25, 0.25, 0.25, 0.25)


def cases(names: Sequence[str], scale: Scale, data: Path | None, *, download: bool) -> list[Case]:
    """Those of these names, on MLPs; Fashion-MNIST is read only where it is needed."""
    unknown = [name for name in names if name not in ABLATIONS]
    if unknown:
        raise UsageError(f"--tasks: unknown {unknown[0]!r}; choose from {', '.join(ABLATIONS)}")
    cases = {"digits": Case(demo.TASK, 64, Descent(60, 1e-3), HORIZON, 0.5)}
    if set(names) - {"digits"}:
        images = fashion_mnist(data_root(data), download=download)
        grown, same = (module.tasks(scale, images)[0] for module in (classes, basic))
        cases["classes"] = Case(
            replace(grown, name="classes"), 128, Descent(40, 1e-3), HORIZON, 0.5
        )
        cases["noise"] = Case(replace(same, name="noise"), 128, Descent(40, 1e-3), 0, 1.0)
    return [cases[name] for name in names]


def run(
    names: Sequence[str],
    seeds: Sequence[int],
    resolution: int,
    data: Path | None,
    device: torch.device,
    out: Path,
    *,
    download: bool = False,
) -> None:
    """Solve and learn what is missing in ``out``, print the tables, write them and the figures."""
    if resolution < 1:
        raise UsageError(f"--resolution {resolution}: at least 1")
    for case in cases(names, SCALES["quick"], data, download=download):
        name = case.task.name
        directory = RunDirectory(out / name, settings(case))
        directory.log(name, case.task.title, [f"resolution {resolution}", "learn"], seeds)
        points = lattice.points(resolution)
        _fill(case, points, seeds, directory, device)
        solved = [_read(directory, name, label(p), s) for p in points for s in seeds]
        if not any(solved):
            print(f"{case.task.title}: no point could be solved", file=sys.stderr)
            continue
        searched = [_read(directory, name, "learn", s) for s in seeds]
        title = f"{case.task.title}: E {described(settings(case))}"
        show_and_write(
            directory.path,
            title,
            [records for records in solved if records],
            [records for records in searched if records],
        )


def settings(case: Case) -> dict[str, Any]:
    """What the records of one directory must have in common."""
    return {
        **study.settings("ablation", [case.task]),
        "floor": FLOOR,
        "horizon": case.horizon,
        "robust": case.robust,
        "batch_size": case.batch_size,
        "descent": case.descent,
        "search": str(phiopt.Mirror()),
    }


def label(point: Point) -> str:
    return "-".join(map(str, point))


def _fill(
    case: Case,
    points: Sequence[Point],
    seeds: Sequence[int],
    directory: RunDirectory,
    device: torch.device,
) -> None:
    """Make the records that are missing: on a GPU all seeds together, which its size invites."""
    name = case.task.name
    groups = [list(seeds)] if device.type == "cuda" else [[seed] for seed in seeds]
    total = len(seeds) * (len(points) + 1)
    with tqdm(total=total, desc=name, disable=None) as bar:
        for group in groups:
            missing = [
                p for p in points if any(not _read(directory, name, label(p), s) for s in group)
            ]
            unlearned = [s for s in group if not _read(directory, name, "learn", s)]
            bar.update(len(group) * (len(points) - len(missing) + 1) - len(unlearned))
            if not missing and not unlearned:
                continue
            try:
                scenes = [lattice.scene(case, seed, directory, device) for seed in group]
            except FloatingPointError as error:
                for seed in unlearned:
                    directory.refuse(name, "learn", seed, f"teacher: {error}")
                tqdm.write(f"{name}, seeds {group}: teacher: {error}", file=sys.stderr)
                continue
            for first in range(0, len(points), CHUNK):
                # All of them or none: the last bits depend on what is solved together.
                chunk = points[first : first + CHUNK]
                for record in lattice.solved(scenes, chunk) if {*missing} & {*chunk} else ():
                    if tuple(record["point"]) in missing:
                        _write(directory, name, label(record["point"]), record)
                        bar.update()
            for scene in scenes:
                if scene.seed in unlearned:
                    try:
                        _write(directory, name, "learn", learned(scene))
                    except (phiopt.AdjointError, FloatingPointError) as error:
                        directory.refuse(name, "learn", scene.seed, str(error))
                        tqdm.write(
                            f"{name}, seed {scene.seed}: nothing learned: {error}", file=sys.stderr
                        )
                    bar.update()


def learned(scene: Scene) -> dict[str, Any]:
    """The record of one search from the centre."""
    began = time.perf_counter()
    learned = phiopt.learn(
        scene.teacher,
        scene.student,
        scene.data,
        scene.case.outer(scene.splits),
        lambdas=CENTRE,
        floor=FLOOR,
        solver=scene.case.solver,
        **scene.options,
    )
    path = [{**asdict(t), "outer": finite(t.outer)} for t in learned.path]
    return {
        "task": scene.case.task.name,
        "seed": scene.seed,
        "lambdas": [float(weight) for _, weight in learned.lambdas.items()],
        "outer": learned.outer,
        "start_outer": learned.start_outer,
        "status": learned.status.name,
        "gradients": learned.gradients,
        "path": [{**t, "status": t["status"].name if t["status"] else None} for t in path],
        "seconds": time.perf_counter() - began,
        "environment": environment(scene.splits.train.x.device),
    }


def _write(directory: RunDirectory, task: str, name: str, record: Mapping[str, Any]) -> None:
    path = directory.record_path(task, name, record["seed"])
    write_text(path, json.dumps(record, indent=1, allow_nan=False))


def _read(directory: RunDirectory, task: str, name: str, seed: int) -> dict[str, Any]:
    """The record; empty where there is no valid one and the work is to be done."""
    try:
        record: dict[str, Any] = schema.read(directory.record_path(task, name, seed), schema.cell)
    except (FileNotFoundError, UsageError):
        return {}
    kind = "path" if name == "learn" else "point"
    return record if kind in record and (record["task"], record["seed"]) == (task, seed) else {}
