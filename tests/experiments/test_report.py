"""Tables and figures from records made by hand."""

import csv
import io
import re

import numpy as np
import pytest

from experiments.report import figures, page, sweeps, tables
from experiments.statistics import paired_p_value
from tests.experiments.cases import undrawn


def record(method, seed, accuracy, *, solution=None, spent=0):
    curve = [
        {"gradients": spent, "accuracy": 0.5, "cross_entropy": 1.0},
        {"gradients": 10, "accuracy": accuracy, "cross_entropy": 0.5},
    ]
    return {
        "task": "t",
        "method": method,
        "seed": seed,
        "learning_rate": 0.01,
        "epoch": 5,
        "examples": 100,
        "initialisation_gradients": spent,
        "curve": curve,
        "test": dict.fromkeys([*tables.MEASURES, *list(tables.OTHERS)[1:]], accuracy),
        "equal_epochs": {
            "learning_rate": 0.01,
            "curve": curve,
            "test": dict.fromkeys(tables.MEASURES, accuracy + spent / 100),
        },
        "corruption": {
            "percentages": [0.0, 50.0],
            "accuracy": [accuracy, 0.1],
            "cross_entropy": [0.5, 2.0],
        },
        "solution": solution,
        "seconds": 1.0,
        "environment": {},
    }


@pytest.fixture
def results():
    solution = {
        "lambdas": [0.1, 0.2, 0.7, 0.0],
        "status": "SOLVED",
        "terms": {"task": 0.25, "proximity": 1.0, "noise": 0.5, "curvature": None},
        "objective": 1.0,
        "start_objective": 2.0,
    }
    return [
        record("default", 0, 0.6),
        record("default", 1, 0.8),
        record("phi", 1, 0.9, solution=solution, spent=4),
        record("phi", 0, 0.8, solution=solution | {"lambdas": [0.3, 0.2, 0.5, 0.0]}, spent=4),
    ]


def test_results_are_means_and_deviations(results):
    table = tables.results("title", results, {"phi": 0.125})
    assert [row[0] for row in table.rows] == ["default", "phi"]
    assert table.rows[0][1] == "0.700 ± 0.141"
    assert table.rows[1][1] == "0.850 ± 0.071"
    assert [row[-1] for row in table.rows] == ["n/a", "0.1250"]


def test_differences_are_paired_by_seed(results):
    (row,) = tables.differences("title", results).rows
    assert row[0] == "phi"
    assert row[1].startswith("+0.150 [+0.1")
    unpaired = [results[0], record("phi", 5, 0.9)]
    assert tables.differences("title", unpaired).rows[0][1] == "n/a"
    assert tables.differences("title", results[2:]).rows == []


def of_format_1(results):
    kept = [{k: v for k, v in r.items() if k not in ("equal_epochs", "examples")} for r in results]
    return [r | {"test": {m: r["test"][m] for m in tables.MEASURES}} for r in kept]


def test_equal_epochs_have_their_own_means_and_differences(results):
    default, phi = tables.equal_epochs("title", results).rows
    assert default[1:] == ["0.700 ± 0.141"] * 3 + ["n/a"] * 3
    assert phi[1] == "0.890 ± 0.071"
    assert phi[4].startswith("+0.190 [")


def test_holms_correction_is_over_all_cells_of_a_table():
    rng = np.random.default_rng(0)
    results = []
    for seed in range(10):
        results.append(record("default", seed, 0.5))
        for method, gain in (("much", 0.1), ("little", 0.008), ("none", 0.0)):
            results.append(record(method, seed, 0.5 + gain + 0.01 * rng.normal()))
    rows = {row[0]: row[1:] for row in tables.differences("title", results).rows}
    marked = {method: {cell.endswith("†") for cell in cells} for method, cells in rows.items()}
    p = {m: _p(results, m) for m in rows}
    assert p["much"] < p["little"] < 0.05 < p["none"]
    # Alone it would hold; with the fifteen cells, of which five hold, it has to be below .05 / 10.
    assert p["little"] > 0.05 / 10
    assert marked == {"much": {True}, "little": {False}, "none": {False}}


def _p(results, method):
    ours, theirs = (
        [r["test"]["accuracy"] for r in results if r["method"] == m] for m in (method, "default")
    )
    return paired_p_value(ours, theirs)


def test_one_seed_has_neither_interval_nor_mark():
    rows = tables.differences("title", [record("default", 0, 0.5), record("phi", 0, 0.6)]).rows
    assert rows == [["phi", *["+0.100"] * 5]]


def test_the_target_is_98_percent_of_what_default_reaches_with_that_seed():
    results = [
        record("default", 0, 0.5),
        record("default", 1, 0.9),
        record("phi", 1, 0.87, spent=4),
    ]
    results.append(record("phi", 0, 0.9, spent=4))
    steps = [r["test"]["steps"] for r in tables.with_steps(results)]
    # .5 is there from the start on; .98 · .9 is .882.
    assert steps == [0, 10, None, 4]
    assert tables.others("title", results).rows[1][1] == "4 ± 0 (1 of 2)"
    assert tables.with_steps(results[2:])[0]["test"]["steps"] is None
    assert tables.others("title", results[2:]).rows[0][1] == "n/a"


def test_records_of_format_1_are_shown_without_what_they_lack(results):
    old = of_format_1(results)
    titles = [table.title for table in tables.every("t", old, {})]
    assert len(titles) == 3
    assert not any("equal epochs" in title or "other measures" in title for title in titles)
    assert len(tables.every("t", results, {})) == 5
    (row, *_) = csv.DictReader(io.StringIO(tables.csv_text(old)))
    assert (row["accuracy"], row["fgsm"], row["area, equal epochs"]) == ("0.6", "", "")


def test_the_equal_epoch_figure_is_of_that_views_curve(tmp_path, monkeypatch, results):
    drawn = []
    monkeypatch.setattr(figures, "band", lambda axis, x, y, label, style: drawn.append((x, y)))
    monkeypatch.setattr(figures, "save", lambda *arguments: None)
    longer = [
        {"gradients": 0, "accuracy": 0.3, "cross_entropy": 1.5},
        {"gradients": 20, "accuracy": 0.9, "cross_entropy": 0.25},
    ]
    phi = results[2] | {"equal_epochs": results[2]["equal_epochs"] | {"curve": longer}}
    # A record of format 1 is left out.
    view = tables.in_equal_epochs([*of_format_1(results[3:]), phi])
    figures.learning_curves(view, "title", tmp_path / "a.svg")
    for (x, heights), measure in zip(drawn, ("accuracy", "cross_entropy"), strict=True):
        assert list(x) == [0, 4]
        assert heights.tolist() == [[point[measure] for point in longer]]


def test_without_the_equal_epoch_view_there_is_no_figure_of_it(tmp_path, monkeypatch, results):
    undrawn(monkeypatch)
    both = figures.every("t", results, tmp_path / "new", ".svg")
    old = figures.every("t", of_format_1(results), tmp_path / "old", ".svg")
    assert set(tmp_path.iterdir()) == both.keys() | old.keys()
    assert [path.name for path in both] == [
        "new-learning.svg",
        "new-equal-epochs.svg",
        "new-corruption.svg",
    ]
    assert both[tmp_path / "new-equal-epochs.svg"].startswith("t: validation accuracy")
    assert [path.name for path in old] == ["old-learning.svg", "old-corruption.svg"]


def test_the_legend_of_many_methods_stays_on_the_page(tmp_path, monkeypatch):
    undrawn(monkeypatch)
    for count in (3, len(figures.STYLES)):
        figure, axes = figures.panels("title", 2)
        for number, style in enumerate(figures.STYLES[:count]):
            figures.band(axes[-1], np.arange(2), np.zeros((1, 2)), f"phi-{number}", style)
        figures.save(figure, axes, tmp_path / "a.svg")
        figure.draw_without_rendering()
        legend = axes[-1].get_legend().get_window_extent()
        assert figure.bbox.y0 <= legend.y0 < legend.y1 <= figure.bbox.y1
        assert (figure.get_figheight() == pytest.approx(3.6)) == (count == 3)


def lines_of(path):
    """Labels of the drawn lines in the order of the legend."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_theta_is_drawn_as_one_curve_beside_levels(tmp_path):
    results = [record("zero", s, 0.5) for s in (0, 1)]
    assert not sweeps.has_thetas(results)
    for theta in (1, 0.01, 0.1):
        results += [record(f"uniform-{theta:g}", s, 0.5 + theta / 10) for s in (0, 1)]
    assert sweeps.has_thetas(results)
    sweeps.theta_curves(results, "title", tmp_path / "a.svg")
    drawn = lines_of(tmp_path / "a.svg")
    assert "U[0, θ]" in drawn
    assert "zero" in drawn
    assert not any("uniform" in label for label in drawn)


def test_sizes_take_the_seeds_that_every_size_has(tmp_path):
    results = [record("phi", s, 0.5) | {"examples": n} for n in (10, 100) for s in (0, 1)]
    results += [record("zero", 0, 0.5) | {"examples": 10}, record("zero", 1, 0.5)]
    sweeps.size_curves(results, "title", tmp_path / "a.svg")
    drawn = lines_of(tmp_path / "a.svg")
    assert "phi" in drawn
    # It has no seed with both sizes.
    assert "zero" not in drawn


def test_the_solution_is_reported_raw(results):
    (row,) = tables.solutions("title", results).rows
    assert row[:3] == ["phi", "SOLVED ×2", "0.2, 0.2, 0.6, 0"]
    assert row[3:7] == ["0.25", "1", "0.5", "not computed"]
    assert row[7:] == ["2.0000 → 1.0000", "4"]
    del results[-1]["solution"]["lambdas"]
    assert tables.solutions("title", results).rows[0][2] == "not recorded"


def test_markdown_and_csv_hold_the_same_numbers(results):
    lines = tables.results("title", results, {}).markdown().splitlines()
    assert lines[0] == "**title**"
    assert len({line.count("|") for line in lines[2:]}) == 1
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(results))))
    assert [float(row["accuracy"]) for row in rows] == [0.6, 0.8, 0.9, 0.8]
    points = list(csv.DictReader(io.StringIO(tables.curves_csv_text(results))))
    assert len(points) == 4 * (2 + 2 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_report_is_written_whole_and_twice_the_same(tmp_path, capsys, results, suffix):
    shown = page.show(results, {"phi": 0.125}, "title")
    assert "0.850 ± 0.071" in capsys.readouterr().out.replace("\n", " ")
    page.write(tmp_path, "t", "title", results, {"phi": 0.125}, shown, suffix)
    names = {path.name for path in tmp_path.iterdir()}
    drawn = {f"t-{kind}{suffix}" for kind in ("learning", "equal-epochs", "corruption")}
    assert names == drawn | {"t.csv", "t-curves.csv", "t.md", "t.json", "t-variance.json"}
    first = {name: (tmp_path / name).read_bytes() for name in names}
    page.write(tmp_path, "t", "title", results, {"phi": 0.125}, shown, suffix)
    assert {name: (tmp_path / name).read_bytes() for name in names} == first


def test_every_method_has_a_style_of_its_own(tmp_path):
    from experiments.task import METHODS

    assert len(METHODS) <= len(figures.STYLES)
    looks = [(str(style["linestyle"]), style["marker"]) for style in figures.STYLES]
    assert len(set(looks)) == len(looks)


def test_steps_count_from_where_the_initialisation_is_had():
    def point(gradients, accuracy):
        return {"gradients": gradients, "accuracy": accuracy, "cross_entropy": 1.0}

    def record(method, spent, curve):
        cell = {"task": "t", "method": method, "seed": 0, "initialisation_gradients": spent}
        return {**cell, "curve": [point(*p) for p in curve], "test": {}}

    # The start of φ has the target; what it becomes has to learn it again.
    waiting = [(0, 0.9), (30, 0.9), (30, 0.2), (50, 0.9)]
    results = [
        record("default", 0, [(0, 0.9), (50, 0.9)]),
        record("phi", 30, waiting),
        record("kept", 30, [*waiting[:2], (30, 0.9), (50, 0.9)]),
    ]
    steps = {r["method"]: r["test"]["steps"] for r in tables.with_steps(results)}
    assert steps == {"default": 0, "phi": 50, "kept": 30}


def test_a_wait_is_drawn_as_a_step():
    x = np.array([0.0, 30.0, 30.0, 50.0])
    (foot,) = figures._feet(x)
    assert foot < 30
    assert np.interp([foot, 30.0], x, [1.0, 1.0, 5.0, 5.0]).tolist() == [1.0, 5.0]
