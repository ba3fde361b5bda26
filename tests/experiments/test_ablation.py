"""The lattice and the search against it, on images made up from a seed."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from experiments import ablation, classes, lattice
from experiments.errors import UsageError
from experiments.lattice import Case
from experiments.methods import Descent
from experiments.report import ablation as reported
from experiments.report import simplex
from experiments.train import Recipe
from phiopt import initialize
from phiopt.bilevel import AdjointError, Mirror
from tests.experiments.cases import CPU, TINY, made_up

# So few steps may leave a start the best iterate.
pytestmark = pytest.mark.filterwarnings("ignore:learn. the chosen solution:UserWarning")

IMAGES = made_up(200, 0), made_up(40, 1)


def case():
    task = classes.tasks(TINY, IMAGES)[0]
    recipe = Recipe(task.teacher_recipe.budget, 32, (1e-3,))
    phi = replace(task.phi, batch_size=16)
    small = replace(task, name="small", teacher_recipe=recipe, phi=phi)
    return Case(small, 16, Descent(3, 1e-2), 2, 0.5)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ablation, "cases", lambda *arguments, **options: [case()])
    return lambda out, seeds=(0, 1): ablation.run(["small"], seeds, 1, None, CPU, out)


@pytest.mark.parametrize(("resolution", "count"), [(1, 4), (4, 35), (8, 165)])
def test_every_point_of_the_lattice_keeps_the_floor(resolution, count):
    points = lattice.points(resolution)
    assert len(set(points)) == len(points) == count
    for point in points:
        weights = lattice.weights(point)
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
        assert weights[1] >= lattice.FLOOR


def test_the_centre_of_the_lattice_is_nearly_that_of_the_simplex():
    assert lattice.weights((1, 1, 1, 1)) == pytest.approx([0.2475, 0.2575, 0.2475, 0.2475])


@pytest.mark.slow
def test_a_run_gives_tables_figures_and_one_record_for_each_point_and_search(tmp_path, small):
    small(tmp_path)
    out = tmp_path / "small"
    records = [json.loads(p.read_text()) for p in (out / "records").glob("*.json")]
    assert len(records) == 2 * (4 + 1)
    rows = list(csv.DictReader((out / "ablation.csv").read_text().splitlines()))
    assert sum(row["kind"] == "lattice" for row in rows) == 8
    assert all(float(row["outer"]) > 0 for row in rows)
    for name in ("ablation.md", "ablation-slices.svg", "ablation-tetrahedron.svg"):
        assert (out / name).stat().st_size > 0
    for actual in (record for record in records if "path" in record):
        lowest = min(t["outer"] for t in actual["path"] if t["outer"] is not None)
        assert actual["outer"] == lowest <= actual["start_outer"]
        prices = [t["gradients"] * (4 if t["differentiated"] else 1) for t in actual["path"]]
        assert actual["gradients"] == sum(prices) <= 3 * Mirror().budget


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path, small, monkeypatch):
    small(tmp_path)
    folder = tmp_path / "small" / "records"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    table = (tmp_path / "small" / "ablation.md").read_text()
    lost = folder / "small-0-1-0-0-1.json"
    lost.unlink()
    (folder / "small-0-0-1-0-0.json").write_text("{")
    asked = []
    solved = lattice.solved

    def watched(scenes, wanted):
        asked.extend((scene.seed, point) for scene in scenes for point in wanted)
        return solved(scenes, wanted)

    monkeypatch.setattr(lattice, "solved", watched)
    monkeypatch.setattr(ablation, "learned", None)  # would be called for a search that is missing
    small(tmp_path)
    # Together as before: alone, a point would have other last bits.
    assert asked == [(seed, point) for seed in (0, 1) for point in lattice.points(1)]
    for path in folder.iterdir():
        again, first = json.loads(path.read_text()), json.loads(before[path.name])
        for record in (again, first):
            record.pop("seconds")
            record.get("stats", {}).pop("seconds", None)
        assert again == first
    assert [row for row in table.splitlines() if "BUDGET" in row]


def test_a_point_is_what_initialize_and_the_outer_loss_of_learn_give(tmp_path):
    directory = ablation.RunDirectory(tmp_path, {})
    scene = lattice.scene(case(), 0, directory, CPU)
    (record,) = lattice.solved([scene], [(1, 0, 2, 1)])
    alone = initialize(
        scene.teacher,
        scene.student,
        record["lambdas"],
        scene.data,
        solver=scene.case.solver,
        throw=False,
        **scene.options,
    )
    outer = scene.case.outer(scene.splits).of(scene.student, 0)
    assert record["outer"] == pytest.approx(float(outer(alone.params)), rel=1e-4)
    assert record["terms"] == pytest.approx(alone.terms, rel=1e-3)


@pytest.mark.slow
def test_a_point_that_is_not_finite_is_reported_and_harms_no_table(tmp_path, capsys):
    directory = ablation.RunDirectory(tmp_path, {})
    scene = lattice.scene(case(), 0, directory, CPU)
    solved = list(lattice.solved([scene], lattice.points(1)))
    broken = {**solved[0], "outer": None, "status": "NON_FINITE"}
    actual = ablation.learned(scene)
    reported.show_and_write(tmp_path, "small", [broken, *solved[1:]], [actual])
    assert "not finite ×1" in (tmp_path / "ablation.md").read_text()
    last = reported.by_point([broken, *solved[1:]])
    assert list(last)[-1] == tuple(broken["lambdas"])


def lattice_records(broken=()):
    points = {point: lattice.weights(point) for point in lattice.points(2)}
    return [
        {"lambdas": weights, "outer": None if point in broken else float(sum(point[:2]))}
        for point, weights in points.items()
    ]


@pytest.mark.slow
def test_figures_leave_out_what_too_few_finite_points_are_left_for(tmp_path):
    flat = [p for p in lattice.points(2) if p[3] == 0]
    stem = tmp_path / "found"
    assert len(simplex.every("title", lattice_records(), [], stem)) == 2
    # Two points are left at λ4 = 0 and at λ4 = ½: no triangle.
    kept = lattice_records([*flat[:4], (1, 0, 0, 1)])
    assert [path.stem for path in simplex.every("title", kept, [], stem)] == ["found-tetrahedron"]
    assert simplex.every("title", lattice_records(lattice.points(2)), [], stem) == {}


def test_what_was_learned_is_crossed_on_a_slice_only_if_it_lies_there(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(simplex, "_save", lambda figure, path: figures.append(figure))
    learned = [{"lambdas": [0.3, 0.3, 0.1, 0.3]}, {"lambdas": [0.5, 0.3, 0.2, 1e-9]}]
    simplex.slices(lattice_records(), learned, "title", tmp_path / "slices.svg")
    crosses = [line for axis in figures[0].axes for line in axis.lines if line.get_marker() == "x"]
    assert len(crosses) == 1


@pytest.mark.slow
def test_a_search_without_a_derivative_is_reported_and_the_lattice_kept(
    tmp_path, small, monkeypatch, capsys
):
    def failing(scene):
        raise AdjointError("no derivative here")

    monkeypatch.setattr(ablation, "learned", failing)
    small(tmp_path, seeds=(0,))
    assert "seed 0: nothing learned: no derivative here" in capsys.readouterr().err
    note = json.loads((tmp_path / "small" / "refusals" / "small-learn-0.json").read_text())
    assert note["reason"] == "no derivative here"
    assert "the lattice" in (tmp_path / "small" / "ablation.md").read_text()


def test_unknown_tasks_and_resolutions_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--tasks: unknown 'cnn'; choose from digits"):
        ablation.cases(["cnn"], TINY, None, download=False)
    with pytest.raises(UsageError, match="--resolution 0"):
        ablation.run(["digits"], [0], 0, None, CPU, tmp_path)


def test_digits_need_no_data():
    (actual,) = ablation.cases(["digits"], TINY, None, download=False)
    assert actual.task.name == "digits"
    assert isinstance(ablation.settings(actual)["search"], str)
    assert torch.device("cpu") == CPU
