"""A lattice of λ and what was learned: on the terminal, in Markdown and CSV, and in a page of runs."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from experiments.records import write_text
from experiments.report import simplex
from experiments.report.blocks import Block, Figure, Heading
from experiments.report.stored import Stored
from experiments.report.tables import Table
from experiments.statistics import paired_difference, summary

Record: TypeAlias = dict[str, Any]
WEIGHTS = ("λ1 task", "λ2 proximity", "λ3 noise", "λ4 curvature")
TERMS = {"task": "L_f", "proximity": "L2", "noise": "L3", "curvature": "L4"}


def show_and_write(
    out: Path, title: str, solved: Sequence[Record], learned: Sequence[Record]
) -> None:
    """Print the tables, and write them and the figures to ``out``."""
    tables = every(title, solved, learned)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for table in tables:
        console.print(table.rich())
    write_text(out / "ablation.md", "\n".join(table.markdown() for table in tables))
    write_text(out / "ablation.csv", csv_text(solved, learned))
    simplex.every(title, solved, learned, out / "ablation")
    print(f"tables, figures and records: {out}")


def every(title: str, solved: Sequence[Record], learned: Sequence[Record]) -> list[Table]:
    return [comparison(title, solved, learned), points(title, solved)]


def described(settings: Mapping[str, Any]) -> str:
    """The outer loss of a run with these settings."""
    steps = settings["horizon"]
    when = f"after {steps} training steps" if steps else "at w1"
    return f"{when}, noisy share {settings['robust']:g}"


def section(run: Stored, out: Path, label: str) -> list[Block]:
    """Tables and figures of each resolution that was asked for, of the seeds with a whole lattice."""
    blocks: list[Block] = []
    learned = sorted((r for r in run.lattice if "path" in r), key=lambda r: r["seed"])
    for name in run.titles.values():
        title = f"{name}: E {described(run.settings)}"
        for resolution, seeds in _asked(run).items():
            whole = [seed for seed in seeds if not _unsolved(run, resolution, seed)]
            solved = [r for seed in whole for r in _solved(run, resolution, seed)]
            if solved:
                searches = [record for record in learned if record["seed"] in whole]
                stem = out / "figures" / f"{label}-{resolution}"
                drawn = simplex.every(title, solved, searches, stem)
                blocks.append(Heading(3, f"{title}, resolution {resolution}"))
                blocks += every(title, solved, searches)
                blocks += [Figure(path.relative_to(out), text) for path, text in drawn.items()]
    return blocks


def missing(run: Stored) -> list[str]:
    """What was asked for and is not there, a line each."""
    searched = {record["seed"] for record in run.lattice if "path" in record}
    lines = []
    for task in run.titles:
        for resolution, seeds in _asked(run).items():
            for seed in seeds:
                if count := _unsolved(run, resolution, seed):
                    of = f"{task}, resolution {resolution}, seed {seed}"
                    lines.append(f"{of}: {count} of {_count(resolution)} points not finished")
        for seed in dict.fromkeys(seed for entry in run.log for seed in entry["seeds"]):
            if seed not in searched:
                reason = run.reasons.get((task, "learn", seed), "not finished")
                lines.append(f"{task}, learn, seed {seed}: {reason}")
    return lines


def _asked(run: Stored) -> dict[int, list[int]]:
    """The seeds of each resolution, as the log has them."""
    asked: dict[int, list[int]] = {}
    for entry in run.log:
        seeds = asked.setdefault(int(entry["methods"][0].removeprefix("resolution ")), [])
        seeds += [seed for seed in entry["seeds"] if seed not in seeds]
    return asked


def _solved(run: Stored, resolution: int, seed: int) -> list[Record]:
    records = (record for record in run.lattice if record["seed"] == seed and "point" in record)
    return [record for record in records if sum(record["point"]) == resolution]


def _unsolved(run: Stored, resolution: int, seed: int) -> int:
    return _count(resolution) - len(_solved(run, resolution, seed))


def _count(resolution: int) -> int:
    """Points of the lattice: four whole numbers that sum to ``resolution``."""
    return comb(resolution + 3, 3)


def by_point(solved: Sequence[Record]) -> dict[tuple[float, ...], list[Record]]:
    """The records of each point in order of seed; points in order of their mean outer loss, those
    at which a seed has none last.
    """
    groups: dict[tuple[float, ...], list[Record]] = {}
    for record in sorted(solved, key=lambda r: r["seed"]):
        groups.setdefault(tuple(record["lambdas"]), []).append(record)
    return dict(sorted(groups.items(), key=lambda item: (mean(item[1]) is None, mean(item[1]))))


def mean(records: Sequence[Record], of: str = "outer") -> float | None:
    values = [record[of] for record in records]
    return None if None in values else summary(values).mean


def points(title: str, solved: Sequence[Record]) -> Table:
    """One row a point, the best first: outer losses, raw terms and how the solves ended."""
    rows = []
    for lambdas, records in by_point(solved).items():
        terms = [_shown([r["terms"][term] for r in records], "{:.3g}") for term in TERMS]
        ends = [record["status"] for record in records]
        status = ", ".join(f"{end} ×{ends.count(end)}" for end in dict.fromkeys(ends))
        outer = [_shown([r[key] for r in records], "{:.4f}") for key in ("outer", "other_horizon")]
        rows.append([" ".join(f"{w:.4g}" for w in lambdas), *outer, *terms, status])
    columns = ["λ1 λ2 λ3 λ4", "E", "E at the other horizon", *TERMS.values(), "status"]
    return Table(f"{title}: the lattice, mean over seeds (E ± sd)", columns, rows)


def comparison(title: str, solved: Sequence[Record], learned: Sequence[Record]) -> Table:
    """One row a seed: the best point of the lattice, what was learned, and the gradients of each."""
    rows, pairs = [], []
    for search in learned:
        solves = [r for r in solved if r["seed"] == search["seed"] and r["outer"] is not None]
        if not solves:
            continue
        best = min(solves, key=lambda record: record["outer"])
        spent = sum(r["stats"]["gradient"] for r in solved if r["seed"] == search["seed"])
        pairs.append((search["outer"], best["outer"]))
        rows.append(
            [
                str(search["seed"]),
                f"{search['start_outer']:.4f}",
                f"{best['outer']:.4f}",
                " ".join(f"{w:.3g}" for w in best["lambdas"]),
                f"{search['outer']:.4f}",
                " ".join(f"{w:.3g}" for w in search["lambdas"]),
                f"{search['outer'] - best['outer']:+.4f}",
                f"{search['gradients'] / spent:.2f}",
            ]
        )
    if len(pairs) > 1:
        d = paired_difference(*zip(*pairs, strict=True))
        rows.append(["mean", *[""] * 5, f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]", ""])
    columns = [
        "seed",
        "centre",
        "best of lattice",
        "at λ",
        "learned",
        "at λ",
        "Δ",
        "gradients, ratio",
    ]
    return Table(f"{title}: learned against the lattice", columns, rows)


def csv_text(solved: Sequence[Record], learned: Sequence[Record]) -> str:
    """One row a point and seed, full precision; then one a step of a search."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = ("outer", "other_horizon", "status")
    writer.writerow(["task", "kind", "seed", *WEIGHTS, *keys, *TERMS.values(), "gradients"])
    for r in solved:
        terms = [r["terms"][term] for term in TERMS]
        row = [r["task"], "lattice", r["seed"], *r["lambdas"], *(r[key] for key in keys), *terms]
        writer.writerow([*row, r["stats"]["gradient"]])
    for r in learned:
        for t in r["path"]:
            row = [r["task"], "learn", r["seed"], *t["lambdas"], t["outer"], "", t["status"]]
            writer.writerow([*row, *[""] * len(TERMS), t["gradients"]])
    return stream.getvalue()


def _shown(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"not finite ×{len(values) - len(known)}"
    mean_and_sd = summary(known)
    return f"{form.format(mean_and_sd.mean)} ± {form.format(mean_and_sd.sd)}"
