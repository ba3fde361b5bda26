"""Tables of a study: on the terminal, in Markdown and in CSV."""

import csv
import io
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from rich.markup import escape
from rich.table import Table as RichTable

from experiments.measures import SEVERITIES, steps_to
from experiments.records import Record
from experiments.statistics import Difference, holm, paired_difference, paired_p_value, summary
from experiments.train import Point

MEASURES = {
    "accuracy": "accuracy",
    "cross_entropy": "cross-entropy",
    "area": "area under curve",
    "accuracy_30": "accuracy, 30 % corrupted",
    "robustness": "robustness L3",
}
OTHERS = {
    "steps": "gradients to target",
    "fgsm": "accuracy, FGSM",
    "calibration_error": "calibration error",
    **{family: f"accuracy, {family}" for family in SEVERITIES},
}
"""Beside the paper's measures; ``steps`` is found when the table is made (`with_steps`)."""
BRIEF = {name: MEASURES[name] for name in ("accuracy", "area", "accuracy_30")}
"""Of the equal-epoch view."""
REFERENCE = "default"
TARGET = 0.98
"""Of the final validation accuracy of `REFERENCE` with the same seed: the target of ``steps``."""
ALPHA = 0.05
HOLDS = "†"


@dataclass(frozen=True)
class Table:
    """A title, column names and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> RichTable:
        table = RichTable(title=escape(self.title), title_justify="left")
        for number, column in enumerate(map(escape, self.columns)):
            table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        body = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        return f"**{markdown_text(self.title)}**\n\n{body}\n"


def markdown_text(text: str) -> str:
    """In a line of Markdown, as it is written: no tag, entity, link, image, code or further line."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split("\n")))
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return text.replace("](", r"]\(").replace("`", r"\`")


def _cell(text: str) -> str:
    return markdown_text(text).replace("|", r"\|")


def by_method(all_records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each method in order of seed, methods in order of appearance."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(all_records, key=lambda record: record["seed"]):
        groups.setdefault(record["method"], []).append(record)
    return groups


def every(title: str, all_records: Sequence[Record], variance: dict[str, float]) -> list[Table]:
    """The tables of one task that have rows."""
    paired = (
        f"paired differences, 95 % bootstrap intervals ({HOLDS}: holds after Holm's correction)"
    )
    shown = [
        results(f"{title}: mean ± sd over seeds", all_records, variance),
        differences(f"{title}: {paired}", all_records),
        equal_epochs(f"{title}: equal epochs, φ's own not counted, and {paired}", all_records),
        others(f"{title}: other measures, mean ± sd over seeds", all_records),
        solutions(f"{title}: φ, as its solver reports it (terms raw)", all_records),
    ]
    return [table for table in shown if table.rows]


def results(title: str, all_records: Sequence[Record], variance: dict[str, float]) -> Table:
    """Mean ± sd over seeds of each measure, and the prediction variance over seeds."""
    rows = []
    for method, cells in _means(all_records, MEASURES).items():
        spread = f"{variance[method]:.4f}" if method in variance else "n/a"
        rows.append([method, *cells, spread])
    teachers = "one teacher" if _one_teacher(all_records) else "each seed a teacher of its own"
    columns = ["initialisation", *MEASURES.values(), f"prediction variance, {teachers}"]
    return Table(title, columns, rows)


def _one_teacher(all_records: Sequence[Record]) -> bool:
    """Whether the seeds are of students alone; records of formats 1 and 2 have a teacher each."""
    return len({record.get("teacher_seed", record["seed"]) for record in all_records}) < len(
        {record["seed"] for record in all_records}
    )


def differences(title: str, all_records: Sequence[Record]) -> Table:
    """Paired differences against default extension with 95 % intervals; no row without a pair."""
    rows = [[method, *cells] for method, cells in _differences(all_records, MEASURES).items()]
    return Table(title, [f"against {REFERENCE}", *MEASURES.values()], rows)


def equal_epochs(title: str, all_records: Sequence[Record]) -> Table:
    """Students after the same number of steps on D2, in brief; records of format 1 have none."""
    view = in_equal_epochs(all_records)
    compared = _differences(view, BRIEF)
    rows = [
        [method, *cells, *compared.get(method, ["n/a"] * len(BRIEF))]
        for method, cells in _means(view, BRIEF).items()
    ]
    against = [f"{name} against {REFERENCE}" for name in BRIEF.values()]
    return Table(title, ["initialisation", *BRIEF.values(), *against], rows)


def in_equal_epochs(all_records: Sequence[Record]) -> list[Record]:
    """Records with that view's curve and measures in place of the main ones, where there is one."""
    return [record | record["equal_epochs"] for record in all_records if "equal_epochs" in record]


def others(title: str, all_records: Sequence[Record]) -> Table:
    """The measures beside the paper's; records of format 1 have none."""
    view = [record for record in with_steps(all_records) if "fgsm" in record["test"]]
    rows = [[method, *cells] for method, cells in _means(view, OTHERS).items()]
    return Table(title, ["initialisation", *OTHERS.values()], rows)


def with_steps(all_records: Sequence[Record]) -> list[Record]:
    """Records with the gradient evaluations to the target; None where it is not reached or not known.

    What an initialisation starts from is not its own: a curve counts from where w1 is had.
    """
    target = {
        (record["task"], record["seed"]): TARGET * record["curve"][-1]["accuracy"]
        for record in all_records
        if record["method"] == REFERENCE
    }
    completed = []
    for record in all_records:
        aim = target.get((record["task"], record["seed"]))
        curve = [Point(**point) for point in record["curve"]]
        spent = record["initialisation_gradients"]
        own = curve[bisect_right([point.gradients for point in curve], spent) - 1 :]
        steps = None if aim is None else steps_to(own, aim)
        completed.append(record | {"test": record["test"] | {"steps": steps}})
    return completed


def overview(measure: str, all_records: Sequence[Record]) -> Table:
    """One measure of every task of a run, mean ± sd over seeds: a row a method, a column a task."""
    names = list(dict.fromkeys(record["task"] for record in all_records))
    rows = []
    for method, records in by_method(all_records).items():
        of_task = {name: [r for r in records if r["task"] == name] for name in names}
        cells = [_mean(of, measure) for of in of_task.values()]
        rows.append([method, *cells])
    return Table(f"{MEASURES[measure]}, by task", ["initialisation", *names], rows)


def solutions(title: str, all_records: Sequence[Record]) -> Table:
    """What the solver reports of each φ, seeds averaged: status, λ, raw terms, objective, cost."""
    rows = []
    for method, records in by_method(all_records).items():
        reports = [record["solution"] for record in records if record["solution"] is not None]
        if reports:
            statuses = [report["status"] for report in reports]
            counts = ", ".join(f"{s} ×{statuses.count(s)}" for s in dict.fromkeys(statuses))
            terms = [
                f"{summary([report['terms'][term] for report in reports]).mean:.3g}"
                if all(report["terms"].get(term) is not None for report in reports)
                else "not computed"
                for term in ("task", "proximity", "noise", "curvature")
            ]
            start = summary([report["start_objective"] for report in reports]).mean
            end = summary([report["objective"] for report in reports]).mean
            spent = summary([record["initialisation_gradients"] for record in records]).mean
            change = f"{start:.4f} → {end:.4f}"
            rows.append([method, counts, _weights(reports), *terms, change, f"{spent:.0f}"])
    terms = ["L_f", "L2", "L3", "L4"]
    columns = ["solution", "status", "λ", *terms, "objective", "gradient evaluations"]
    return Table(title, columns, rows)


def _weights(reports: Sequence[dict[str, Any]]) -> str:
    """λ, seeds averaged; records made before it could be learned do not hold it."""
    if not all("lambdas" in report for report in reports):
        return "not recorded"
    weights = zip(*(report["lambdas"] for report in reports), strict=True)
    return ", ".join(f"{summary(weight).mean:.2g}" for weight in weights)


def csv_text(all_records: Sequence[Record]) -> str:
    """One row a record, full precision; empty where a record lacks the measure."""
    stream = io.StringIO()
    columns = ["task", "method", "seed", "learning_rate", "initialisation_gradients", "seconds"]
    measures = [*MEASURES, *OTHERS]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*columns, *measures, *(f"{name}, equal epochs" for name in MEASURES)])
    for record in with_steps(all_records):
        longer = record.get("equal_epochs", {"test": {}})["test"]
        row = [*(record[c] for c in columns), *(record["test"].get(m) for m in measures)]
        writer.writerow([*row, *(longer.get(m) for m in MEASURES)])
    return stream.getvalue()


def curves_csv_text(all_records: Sequence[Record]) -> str:
    """The figures' data: one row a point of a learning or corruption curve."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["task", "method", "seed", "against", "value", "accuracy", "cross_entropy"])
    for record in all_records:
        cell = [record["task"], record["method"], record["seed"]]
        longer = record.get("equal_epochs", {"curve": []})["curve"]
        for against, curve in (("gradient evaluations", record["curve"]), ("steps", longer)):
            for point in curve:
                row = [point["gradients"], point["accuracy"], point["cross_entropy"]]
                writer.writerow([*cell, against, *row])
        for noisy in zip(*record["corruption"].values(), strict=True):
            writer.writerow([*cell, "corrupted per cent", *noisy])
    return stream.getvalue()


def _means(all_records: Sequence[Record], measures: Mapping[str, str]) -> dict[str, list[str]]:
    """A method's cells."""
    groups = by_method(all_records)
    return {method: [_mean(records, m) for m in measures] for method, records in groups.items()}


def _mean(records: Sequence[Record], measure: str) -> str:
    """Mean ± sd over the records that have the measure, saying how many where these are not all."""
    values = [v for record in records if (v := record["test"].get(measure)) is not None]
    if not values:
        return "n/a"
    text = summary(values).text(0 if measure == "steps" else 3)
    return text if len(values) == len(records) else f"{text} ({len(values)} of {len(records)})"


def _differences(
    all_records: Sequence[Record], measures: Mapping[str, str]
) -> dict[str, list[str]]:
    """A method's cells against `REFERENCE`; Holm's correction is over the cells of all methods."""
    groups = by_method(all_records)
    theirs = {record["seed"]: record["test"] for record in groups.pop(REFERENCE, ())}
    pairs = {
        (method, measure): [
            (record["test"][measure], theirs[record["seed"]][measure])
            for record in records
            if record["seed"] in theirs
        ]
        for method, records in groups.items()
        for measure in measures
    }
    p_values = {
        cell: paired_p_value(*zip(*p, strict=True)) for cell, p in pairs.items() if len(p) > 1
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        method: [
            _difference(pairs[method, m], holds=adjusted.get((method, m), 1.0) <= ALPHA)
            for m in measures
        ]
        for method in groups
        if theirs
    }


def _difference(pairs: Sequence[tuple[float, float]], *, holds: bool) -> str:
    if not pairs:
        return "n/a"
    text = _text(paired_difference(*zip(*pairs, strict=True)))
    return f"{text} {HOLDS}" if holds else text


def _text(difference: Difference) -> str:
    if isnan(difference.low):
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
