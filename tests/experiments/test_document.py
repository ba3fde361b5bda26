"""The page of several runs: everything that was run, and what was not."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from experiments import ablation, classes, demo, samples, theta
from experiments.cli import app
from experiments.errors import UsageError
from experiments.lattice import Case
from experiments.methods import Descent
from experiments.report import document
from experiments.report.blocks import Code, Heading, Items, Text, html, markdown
from experiments.report.tables import Table
from experiments.train import Recipe
from tests.experiments.cases import CPU, made_up, performed, undrawn

IMAGES = made_up(200, 0), made_up(40, 1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run of one student."""
    out = tmp_path_factory.mktemp("swept") / "theta"
    performed(theta.EXPERIMENT, IMAGES, out, names=["mlp"], methods=("zero",))
    return out


@pytest.fixture(scope="module")
def runs(swept, tmp_path_factory):
    """Two runs, of which one is unfinished."""
    root = tmp_path_factory.mktemp("runs")
    performed(
        classes.EXPERIMENT,
        IMAGES,
        root / "classes",
        names=["mlp", "authors"],
        methods=("scratch", "default"),
        seeds=(0, 1),
    )
    (root / "classes" / "records" / "authors-default-1.json").unlink()
    (root / "classes" / "refusals").mkdir()
    note = {"task": "authors", "method": "default", "seed": 1, "reason": "ValueError: <none>"}
    (root / "classes" / "refusals" / "authors-default-1.json").write_text(json.dumps(note))
    return [root / "classes", swept]


@pytest.mark.slow
def test_the_page_holds_every_table_figure_and_number(runs, tmp_path):
    document.write(runs, tmp_path)
    page, web = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    for run, task in zip(runs, ("mlp", "mlp"), strict=True):
        table = (run / f"{task}.md").read_text()
        assert table.split("\n\n**")[0] in page
    drawn = re.findall(r"!\[[^]]*\]\((figures/[^)]*\.svg)\)", page)
    assert len(drawn) == len(set(drawn)) == 9
    assert all((tmp_path / name).stat().st_size > 0 for name in drawn)
    assert web.count("data:image/svg+xml;base64,") == 9
    assert web.count("<table>") == page.count("\n| ---")
    assert "seeds: 0, 1" in page
    assert "torch" in page
    assert "python -m experiments" in page


@pytest.mark.slow
def test_what_was_not_run_is_listed_with_its_reason(runs, tmp_path):
    document.write(runs, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "- authors, default, seed 1: ValueError: &lt;none>" in page
    assert "ValueError: &lt;none&gt;" in (tmp_path / "report.html").read_text()
    assert "- task authors-linear" in page
    assert "- cifar: " in page
    assert "- theta: " not in page


def test_a_killed_run_has_what_is_finished(swept, tmp_path, monkeypatch):
    undrawn(monkeypatch)
    shutil.copytree(swept, tmp_path / "run")
    record = tmp_path / "run" / "records" / "mlp-zero-0.json"
    record.write_text(record.read_text()[:50])
    document.write([tmp_path / "run"], tmp_path / "out")
    assert "- mlp, zero, seed 0: not finished" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_sweeps_are_drawn_as_curves(tmp_path):
    both = tmp_path / "theta", tmp_path / "samples"
    methods = ("uniform-0.01", "uniform-0.1", "default")
    performed(theta.EXPERIMENT, IMAGES, both[0], names=["mlp"], methods=methods)
    performed(samples.EXPERIMENT, IMAGES, both[1], names=["mlp-100", "mlp-all", "cnn-all"])
    document.write(both, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Fashion-MNIST, MLP: test accuracy, clean and with noise, against θ" in page
    (sizes,) = re.findall(r"!\[([^]]*against \|D2\|)\]\((.*)\)", page)
    assert sizes[0] == "Fashion-MNIST, classes 0-4 to 0-9, MLP: test measures against |D2|"
    assert (tmp_path / "out" / sizes[1]).stat().st_size > 0


@pytest.fixture(scope="module")
def lattices(tmp_path_factory):
    """Of the digits, at two resolutions; the seed 0 of the finer one is unfinished, as is a search."""
    out = tmp_path_factory.mktemp("lattices")
    task = replace(demo.TASK, teacher_recipe=Recipe(20, 32, (1e-3,)))
    case = Case(task, 16, Descent(3, 1e-3), 2, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "cases", lambda *arguments, **options: [case])
        patch.setattr(ablation, "learned", searched)
        for resolution, seeds in ((1, [0, 1]), (2, [0])):
            ablation.run(["digits"], seeds, resolution, None, CPU, out)
            shutil.copy(out / "digits" / "ablation.md", out / f"resolution-{resolution}.md")
    (out / "digits" / "records" / "digits-1-0-0-1-0.json").write_text("{")
    (out / "digits" / "records" / "digits-learn-1.json").unlink()
    return out


def searched(scene):
    """A record as a search leaves it, without its price."""
    path = [{"lambdas": [0.25] * 4, "outer": 3.0, "status": None, "gradients": 1}]
    best = {"lambdas": [0.1, 0.2, 0.3, 0.4], "outer": 2.0, "gradients": 1, "start_outer": 3.0}
    rest = {"task": "digits", "seed": scene.seed, "seconds": 1.0, "environment": {"torch": "2"}}
    return {**best, **rest, "path": [*path, {**path[0], **best}]}


@pytest.mark.slow
def test_an_ablation_has_its_tables_and_figures_of_whole_lattices(lattices, tmp_path):
    document.write([lattices], tmp_path)
    page, web = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert page.count("\n## ablation, digits\n") == 1
    for resolution, whole in ((1, True), (2, False)):
        table = (lattices / f"resolution-{resolution}.md").read_text().split("\n\n**")[1]
        assert (table in page) == whole
    drawn = re.findall(r"!\[[^]]*\]\((figures/[^)]*\.svg)\)", page)
    assert drawn == [f"figures/1-digits-1-{kind}.svg" for kind in ("slices", "tetrahedron")]
    assert web.count("data:image/svg+xml;base64,") == 2
    assert "- digits, resolution 2, seed 0: 1 of 10 points not finished" in page
    assert "- digits, learn, seed 1: not finished" in page
    assert "18 points and searches" in page


@pytest.mark.slow
def test_an_ablation_is_found_by_its_own_directory_and_beside_others(lattices, runs, tmp_path):
    document.write([runs[1], lattices / "digits"], tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "## theta, tiny" in page
    assert "learned against the lattice" in page
    with pytest.raises(UsageError, match="repeated"):
        document.write([lattices, lattices / "digits"], tmp_path)


def test_records_of_another_format_are_refused(swept, tmp_path, monkeypatch):
    undrawn(monkeypatch)
    copy = tmp_path / "run"
    shutil.copytree(swept, copy)
    settings = json.loads((copy / "settings.json").read_text())
    for version in (4, "two"):
        (copy / "settings.json").write_text(json.dumps(settings | {"format": version}))
        with pytest.raises(UsageError, match=f"records are of format {version}, must be 1 to 3"):
            document.write([copy], tmp_path / "out")
    del settings["format"]
    (copy / "settings.json").write_text(json.dumps(settings))
    document.write([copy], tmp_path / "out")


@pytest.mark.slow
def test_wrong_directories_are_named(runs, tmp_path):
    for arguments, message in (
        ([tmp_path], "not a run directory"),
        ([runs[0], runs[0]], "repeated"),
    ):
        result = CliRunner().invoke(
            app, ["report", *map(str, arguments), "--out", str(tmp_path / "out")]
        )
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "out").exists()


def test_the_same_blocks_make_both_pages(tmp_path):
    blocks = [
        Heading(2, "a < b"),
        Text("text"),
        Items(["one", "two"]),
        Code("x & y"),
        Table("t", ["n", "v"], [["row", "1 > 0"]]),
    ]
    assert markdown(blocks).startswith("## a < b\n\ntext\n\n- one\n- two\n\n```\nx & y\n```\n")
    page = html(blocks, "title", tmp_path)
    for part in ("<h2>a &lt; b</h2>", "<li>two</li>", "<pre>x &amp; y</pre>", "<td>1 &gt; 0</td>"):
        assert part in page


@pytest.mark.slow
def test_runs_are_found_at_any_depth(runs, lattices, tmp_path):
    shutil.copytree(runs[1], tmp_path / "runs" / "theta")
    shutil.copytree(lattices / "digits", tmp_path / "runs" / "ablation" / "digits")
    document.write([tmp_path / "runs"], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## theta, tiny" in page
    assert "## ablation, digits" in page


@pytest.mark.slow
def test_a_torn_line_of_the_log_is_left_out(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[1], copy)
    document.write([copy], tmp_path / "whole")
    with open(copy / "log.jsonl", "a") as log:
        log.write('{"command": "half')
    document.write([copy], tmp_path / "torn")
    pages = [(tmp_path / name / "report.md").read_text() for name in ("whole", "torn")]
    assert pages[0] == pages[1]
    (copy / "log.jsonl").write_text("half")
    with pytest.raises(UsageError, match=r"log\.jsonl holds no command"):
        document.write([copy], tmp_path / "out")
