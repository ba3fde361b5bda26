"""The report of a study: figures, CSV, Markdown and the terminal, all from its records."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.records import Record, write_text
from experiments.report import figures, tables
from experiments.report.tables import Table

PIPE_WIDTH = 140


def show(all_records: Sequence[Record], variance: dict[str, float], title: str) -> list[Table]:
    """The tables of one task, printed."""
    shown = tables.every(title, all_records, variance)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    for table in shown:
        console.print(table.rich())
        console.print()
    return shown


def write(
    out: Path,
    task: str,
    title: str,
    all_records: Sequence[Record],
    variance: dict[str, float],
    shown: Sequence[Table],
    suffix: str,
) -> None:
    """Write the figures (``suffix``: ``.svg`` or ``.png``), tables and records of one task."""
    figures.every(title, all_records, out / task, suffix)
    write_text(out / f"{task}.csv", tables.csv_text(all_records))
    write_text(out / f"{task}-curves.csv", tables.curves_csv_text(all_records))
    write_text(out / f"{task}.md", "\n".join(table.markdown() for table in shown))
    write_text(out / f"{task}-variance.json", json.dumps(variance, indent=1))
    write_text(out / f"{task}.json", json.dumps(all_records, indent=1, allow_nan=False))
