"""A run directory that somebody damaged or made up: one line that names the file and the field, or the work again."""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments import basic, schema, study
from experiments.errors import UsageError
from experiments.records import RunDirectory, load_module
from experiments.report import document
from experiments.report.blocks import Code, Figure, Heading, Items, Text, html, markdown
from experiments.report.tables import Table
from tests.experiments.cases import CPU, made_up, performed

GONE = object()
OTHERS = (None, [], {}, "<b>", -1, 2**70, True, [1], float("nan"), GONE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one student, and its task."""
    root = tmp_path_factory.mktemp("run") / "run"
    images = made_up(200, 0), made_up(40, 1)
    task = performed(basic.EXPERIMENT, images, root, names=["mlp"], methods=("default",))[0]
    return root, task


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def places(value, way=()):
    if way:
        yield way
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))


def changed(text, way, value):
    whole = json.loads(text)
    holder = whole
    for key in way[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[way[-1]]
    else:
        holder[way[-1]] = value
    return json.dumps(whole)


def files(run):
    return {
        schema.cell: next((run / "records").glob("*.json")),
        schema.SETTINGS: run / "settings.json",
        schema.LOG: run / "log.jsonl",
        schema.VARIANCE: run / "mlp-variance.json",
    }


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_any_field_of_another_type_is_told_by_file_and_field(run, share):
    """Of the record and the log all that the report reads is checked. One field in ``share`` is tried."""
    for check, path in files(run).items():
        text, refused = path.read_text(), 0
        ways = [(way, value) for way in places(json.loads(text)) for value in OTHERS]
        ways = random.Random(0).sample(ways, -(-len(ways) // share))
        for way, value in ways:
            path.write_text(changed(text, way, value))
            try:
                schema.read(path, check)
            except UsageError as error:
                said = str(error)
                refused += said.startswith(str(path)) and "\n" not in said and len(said) < 400
        path.write_text(text)
        if check in (schema.cell, schema.LOG):
            assert refused > 0.6 * len(ways), (path, refused, len(ways))


@pytest.mark.slow
def test_what_the_checks_let_through_can_be_reported(run, tmp_path):
    draw = random.Random(0)
    for path in list(files(run).values())[:3]:
        text = path.read_text()
        for way in draw.sample(list(places(json.loads(text))), 4):
            path.write_text(changed(text, way, draw.choice(OTHERS)))
            with suppress(UsageError):
                document.write([run], tmp_path / "out")
        path.write_text(text)


@pytest.mark.parametrize("name", ["settings.json", "log.jsonl", "record"])
@pytest.mark.parametrize(
    "content",
    [b"[]", b"7", b"\xff\xfe", b"[" * 5000 + b"]" * 5000, b'{"a": 1, "a": 2}', b"9" * 5000],
)
def test_a_file_that_is_something_else_is_told_in_a_line(run, tmp_path, name, content):
    path = files(run)[schema.cell] if name == "record" else run / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        document.write([run], tmp_path / "out")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_are_something_else_end_a_run(tmp_path):
    (tmp_path / "settings.json").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"--out .*settings\.json is not valid JSON"):
        RunDirectory(tmp_path, {"a": 1})
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(UsageError, match=r"settings\.json: its JSON is \[\]"):
        RunDirectory(tmp_path, {"a": 1})


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def renamed(path):
    save_file({"other": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [halved, renamed])
def test_a_damaged_teacher_is_made_again_and_a_torn_student_too(finished, run, damage):
    task = finished[1]
    settings = json.loads((run / "settings.json").read_text())
    teacher = next((run / "teachers").glob("*.safetensors"))
    student = next((run / "students").glob("*.safetensors"))
    kept = teacher.read_bytes(), student.read_bytes()
    damage(teacher)
    halved(student)
    actual = study.run(task, ["default"], [0], RunDirectory(run, settings), CPU)
    assert len(actual) == 1
    assert (teacher.read_bytes(), student.read_bytes()) == kept
    renamed(student)
    with pytest.raises(UsageError, match=r"\.safetensors: of another module, it lacks"):
        load_module(task.student(), student)


MARKUP = "<script>alert(1)</script> [x](javascript:y) | `c` & \n# d"


def test_markup_is_shown_as_it_is_written(tmp_path):
    (tmp_path / "a b).svg").write_text("<svg/>")
    blocks = [
        Heading(2, MARKUP),
        Text(MARKUP),
        Items([MARKUP]),
        Figure(Path("a b).svg"), MARKUP),
        Table(MARKUP, ["m", MARKUP], [[MARKUP, "[-0.1, +0.2]"]]),
        Code("```\n<b>"),
    ]
    page, web = markdown(blocks[:-1]), html(blocks, MARKUP, tmp_path)
    assert "<" not in page
    assert "](javascript" not in page
    assert "\n# d" not in page
    assert "(a%20b%29.svg)" in page
    assert "[-0.1, +0.2]" in page
    row = page.splitlines()[-1].replace(r"\|", "")
    assert row.count("|") == 3
    assert "<script>" not in web
    assert markdown(blocks[-1:]).startswith("````\n")
    assert blocks[4].rich().title == MARKUP.replace("[x]", r"\[x]")


def test_a_name_that_leads_out_of_the_folder_is_refused(run, tmp_path):
    path = run / "log.jsonl"
    path.write_text(path.read_text().replace('"task": "mlp"', '"task": "../../mlp"'))
    with pytest.raises(UsageError, match=r"line 1: task is '\.\./\.\./mlp', must be a name"):
        document.write([run], tmp_path / "out")
