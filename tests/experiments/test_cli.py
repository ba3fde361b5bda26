"""The command line: what it lists, and one line for each mistake."""

import subprocess
import sys
from importlib import import_module

import pytest
from typer.testing import CliRunner

from experiments.cli import EXPERIMENTS, app
from tests.light import check_answered_lightly


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_without_arguments_the_experiments_are_listed():
    result = run()
    assert result.exit_code == 0
    assert "demo" in result.output
    assert "basic" in result.output


def test_an_unknown_experiment_is_answered_with_the_list():
    result = run("advanced")
    assert result.exit_code == 2
    assert "unknown experiment 'advanced'; choose from demo, basic, classes, cifar" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1,2,1"], "--seeds 1,2,1: repeated"),
        (["--seeds", "0"], "--seeds 0: at least one"),
        (["--seeds", "-3"], "--seeds -3: a count such as 5"),
        (["--seeds", "many"], "--seeds many: a count such as 5"),
        (["--methods", "zero,magic"], "unknown 'magic'; choose from scratch, zero, uniform"),
        (["--methods", "zero,zero"], "--methods zero,zero: repeated"),
    ],
)
def test_a_wrong_option_is_named_before_any_work(tmp_path, arguments, message):
    result = run("demo", "--out", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_data_says_how_to_get_it(tmp_path):
    result = run("basic", "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "--download lets torchvision fetch them" in result.stderr


def test_an_unknown_device_is_named(tmp_path):
    result = run("basic", "--device", "abacus", "--data", str(tmp_path))
    assert result.exit_code == 2
    assert "--device abacus: not usable here" in result.stderr


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("demo", "--seeds", "1", "--out", str(tmp_path / "file" / "out"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_the_list_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['phiopt', '--help']\n"
        "from experiments.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'sklearn', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_a_mistake_is_answered_before_anything_heavy_is_loaded(tmp_path):
    mistakes = [
        "demo --seeds x", "demo --methods magic", "frobnicate", "basic --seeds 1,1", "basic --tasks magic",
        "basic --scale huge", "basic --device abacus", f"basic --data {tmp_path / 'away'}",
        f"classes --data {tmp_path}", "ablation --tasks magic", "ablation --resolution 0", "variants --methods magic",
        f"report {tmp_path / 'away'}",
    ]  # fmt: skip
    heavy = {"torch", "sklearn", "matplotlib", "scipy", "numpy"}
    given = [mistake.split() for mistake in mistakes]
    check_answered_lightly("experiments.__main__", given, heavy)


@pytest.mark.parametrize("device", ["meta", "abacus", "hpu"])
def test_a_device_that_computes_nothing_is_named(tmp_path, device):
    result = run("basic", "--device", device, "--data", str(tmp_path))
    assert result.exit_code == 2
    assert f"--device {device}: not usable here" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_mistakes_in_names_come_before_the_data(tmp_path):
    for arguments, message in (
        (
            ["variants", "--methods", "magic"],
            "--methods magic: unknown 'magic'; choose from default",
        ),
        (["basic", "--tasks", "mlp,cnn,mlp"], "--tasks mlp,cnn,mlp: repeated"),
        (["ablation", "--tasks", "digits,digits"], "--tasks digits,digits: repeated"),
    ):
        out = tmp_path / "out"
        result = run(*arguments, "--data", str(tmp_path), "--out", str(out))
        assert result.exit_code == 2
        assert message in result.stderr
        assert not out.exists()


def test_every_experiment_that_is_listed_is_there():
    for name in EXPERIMENTS:
        assert import_module(f"experiments.{name.replace('-', '_')}").EXPERIMENT.name == name
