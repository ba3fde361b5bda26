"""One page of several runs: figures, tables, environment, commands, seeds and what was not run."""

from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UsageError
from experiments.records import Record, write_text
from experiments.report import ablation, figures, sweeps, tables
from experiments.report.blocks import Block, Code, Figure, Heading, Items, Text, html, markdown
from experiments.report.stored import Stored, read, runs_in

TITLE = "Experiments on Anti-Distillation"


def write(runs: Sequence[Path], out: Path) -> None:
    """Write ``report.md``, ``report.html`` and their figures to ``out``.

    Raises ``UsageError`` if one of ``runs`` neither is nor holds a run directory, or is named twice.
    """
    paths = [path for run in runs for path in runs_in(run)]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"RUNS {', '.join(map(str, runs))}: repeated; each may be named once")
    stored = [read(path) for path in paths]
    blocks: list[Block] = [Heading(1, TITLE)]
    for number, run in enumerate(stored, 1):
        part = _ablation if run.settings["experiment"] == "ablation" else _run
        blocks += part(run, out, f"{number}-{run.path.resolve().name}")
    blocks += _absent(stored)
    write_text(out / "report.md", markdown(blocks))
    write_text(out / "report.html", html(blocks, TITLE, out))


def _run(run: Stored, out: Path, label: str) -> list[Block]:
    name = run.settings["experiment"]
    blocks = _head(run, name, run.records, "students")
    if len({record["task"] for record in run.records}) > 1:
        blocks += [tables.overview(measure, run.records) for measure in tables.MEASURES]
    for task, title in run.titles.items():
        blocks += _task(run, task, title, out, label)
    blocks += _sizes(run, out, label)
    missing = [f"{t}, {m}, seed {s}: {reason}" for t, m, s, reason in run.missing()]
    tasks = [f"task {task}" for task in _tasks(run) if task not in run.titles]
    return [*blocks, *_not_run(name, [*missing, *tasks])]


def _ablation(run: Stored, out: Path, label: str) -> list[Block]:
    name = ", ".join(["ablation", *run.titles])
    return [
        *_head(run, name, run.lattice, "points and searches"),
        *ablation.section(run, out, label),
        *_not_run(name, ablation.missing(run)),
    ]


def _head(run: Stored, name: str, records: Sequence[Record], counted: str) -> list[Block]:
    environments = {
        ", ".join(f"{key} {value}" for key, value in sorted(record["environment"].items()))
        for record in records
    }
    seeds = sorted({record["seed"] for record in records})
    hours = sum(record["seconds"] for record in records) / 3600
    return [
        Heading(2, name),
        Code("\n".join(dict.fromkeys(entry["command"] for entry in run.log))),
        Items(
            [
                f"phiopt {run.settings['phiopt']}; "
                + ("; ".join(sorted(environments)) or "no record, no environment"),
                f"seeds: {', '.join(map(str, seeds)) or 'none finished'}",
                f"{len(records)} {counted}, {hours:.2f} hours of work in all",
            ]
        ),
    ]


def _not_run(name: str, lines: Sequence[str]) -> list[Block]:
    return [
        Heading(3, f"Not run: {name}"),
        Items(lines or ["all that was asked for was run"]),
    ]


def _tasks(run: Stored) -> list[str]:
    return [name for name, value in run.settings.items() if isinstance(value, dict)]


def _task(run: Stored, task: str, title: str, out: Path, label: str) -> list[Block]:
    task_records = run.of(task)
    if not task_records:
        return []
    drawn = figures.every(title, task_records, out / "figures" / f"{label}-{task}", ".svg")
    swept = []
    if sweeps.has_thetas(task_records):
        path = Path("figures") / f"{label}-{task}-theta.svg"
        sweeps.theta_curves(task_records, title, out / path)
        swept.append(Figure(path, f"{title}: test accuracy, clean and with noise, against θ"))
    return [
        Heading(3, title),
        *tables.every(title, task_records, run.variance(task)),
        *(Figure(path.relative_to(out), caption) for path, caption in drawn.items()),
        *swept,
    ]


def _sizes(run: Stored, out: Path, label: str) -> list[Block]:
    """For each network that learned from several numbers of images, curves against the number."""
    blocks: list[Block] = []
    networks = dict.fromkeys(task.rpartition("-")[0] for task in run.titles)
    for network in networks if run.settings["experiment"].startswith("samples") else ():
        titles = {t: title for t, title in run.titles.items() if t.rpartition("-")[0] == network}
        all_records = [record for task in titles for record in run.of(task)]
        if len({record["examples"] for record in all_records}) > 1:
            title = next(iter(titles.values())).rpartition(", ")[0]
            path = Path("figures") / f"{label}-{network}-sizes.svg"
            sweeps.size_curves(all_records, title, out / path)
            blocks.append(Figure(path, f"{title}: test measures against |D2|"))
    return blocks


def _absent(stored: Sequence[Stored]) -> list[Block]:
    """The experiments that none of the runs is of."""
    from experiments.cli import EXPERIMENTS

    present = {run.settings["experiment"].split(",")[0] for run in stored}
    absent = [f"{name}: {text}" for name, text in EXPERIMENTS.items() if name not in present]
    if not absent:
        return []
    return [Heading(2, "Not in this report"), Text("No run was given of"), Items(absent)]
