"""Tables of a lattice of λ and of what was learned, on the terminal, in Markdown and in CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from experiments import ablation_figures
from experiments.records import write_text
from experiments.report.tables import Table
from experiments.statistics import paired_difference, summary

Record: TypeAlias = dict[str, Any]
WEIGHTS = ("λ1 task", "λ2 proximity", "λ3 noise", "λ4 curvature")
TERMS = {"task": "L_f", "proximity": "L2", "noise": "L3", "curvature": "L4"}


def show_and_write(
    out: Path, title: str, solved: Sequence[Record], learned: Sequence[Record]
) -> None:
    """Print the tables, and write them and the figures to ``out``."""
    tables = [comparison(title, solved, learned), points(title, solved)]
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for table in tables:
        console.print(table.rich())
    write_text(out / "ablation.md", "\n".join(table.markdown() for table in tables))
    write_text(out / "ablation.csv", csv_text(solved, learned))
    ablation_figures.slices(solved, learned, title, out / "ablation-slices.svg")
    ablation_figures.tetrahedron(solved, learned, title, out / "ablation-tetrahedron.svg")
    print(f"tables, figures and records: {out}")


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
    for found in learned:
        mine = [r for r in solved if r["seed"] == found["seed"] and r["outer"] is not None]
        if not mine:
            continue
        best = min(mine, key=lambda record: record["outer"])
        spent = sum(r["stats"]["gradient"] for r in solved if r["seed"] == found["seed"])
        pairs.append((found["outer"], best["outer"]))
        rows.append(
            [
                str(found["seed"]),
                f"{found['start_outer']:.4f}",
                f"{best['outer']:.4f}",
                " ".join(f"{w:.3g}" for w in best["lambdas"]),
                f"{found['outer']:.4f}",
                " ".join(f"{w:.3g}" for w in found["lambdas"]),
                f"{found['outer'] - best['outer']:+.4f}",
                f"{found['gradients'] / spent:.2f}",
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
    found = summary(known)
    return f"{form.format(found.mean)} ± {form.format(found.sd)}"
