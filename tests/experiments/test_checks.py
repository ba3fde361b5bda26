"""Mistakes at the command line: one line, exit 2, and nothing heavy is imported to tell."""

import json
import os
import subprocess
import sys

import pytest

from experiments import checks
from experiments.errors import UsageError
from experiments.names import ABLATIONS, DEMO

HUGE = "99999999999999999999"


# Arguments that are wrong, and words of what is said to them. {at}: the folder that `spoil` fills.
MISTAKES = [
    (["demo", "--seeds", HUGE], "--seeds", "at most 10,000"),
    (["demo", "--seeds", f"{HUGE},"], "--seeds", "below 2**63"),
    (["demo", "--seeds", f"1,{2**63}"], "--seeds", "below 2**63"),
    (["demo", "--seeds", "10000000000"], "--seeds", "at most 10,000"),
    (["demo", "--seeds", "-3"], "--seeds -3", "integers >= 0"),
    (["demo", "--seeds", "0"], "--seeds 0", "at least one"),
    (["demo", "--seeds", ""], "--seeds", "a count such as 5"),
    (["demo", "--seeds", "1e3"], "--seeds 1e3", "a count such as 5"),
    (["demo", "--seeds", "nan"], "--seeds nan", "a count such as 5"),
    (["basic", "--seeds", "1.5"], "--seeds 1.5", "a count such as 5"),
    (["ablation", "--seeds", HUGE], "--seeds", "at most 10,000"),
    (["ablation", "--resolution", "100000"], "--resolution 100000", "at most 32"),
    (["ablation", "--resolution", "33"], "--resolution 33", "6,545 points"),
    (["ablation", "--resolution", "0"], "--resolution 0", "at least 1"),
    (["ablation", "--resolution", "-4"], "--resolution -4", "at least 1"),
    (["ablation", "--resolution", "four"], "--resolution", "integer"),
    (["ablation", "--tasks", "digit"], "--tasks digit", "choose from digits"),
    (["ablation", "--tasks", "digits,digits"], "--tasks digits,digits", "repeated"),
    (["ablation", "--tasks", "noise", "--data", "{at}/none"], "--data", "does not exist"),
    (["basic", "--tasks", "mlp,mlp"], "--tasks mlp,mlp", "repeated"),
    (["basic", "--tasks", "mlp,rnn"], "--tasks mlp,rnn", "unknown 'rnn'; choose from mlp"),
    (["basic", "--tasks", ""], "--tasks", "unknown ''; choose from mlp"),
    (
        ["classes", "--tasks", "mlp-all"],
        "--tasks mlp-all",
        "choose from mlp, cnn, lstm, authors",
    ),
    (["samples", "--tasks", "mlp"], "--tasks mlp", "choose from mlp-100"),
    (
        ["demo", "--methods", "magic"],
        "--methods magic",
        "unknown 'magic'; choose from scratch, zero",
    ),
    (["demo", "--methods", "zero,zero"], "--methods zero,zero", "repeated"),
    (["demo", "--methods", ""], "--methods", "choose from scratch"),
    (["demo", "--methods", "all,zero"], "--methods all,zero", "unknown 'all'"),
    (["theta", "--methods", "phi"], "--methods phi", "choose from scratch, default, zero"),
    (["variants", "--methods", "magic"], "--methods magic", "choose from default, matched"),
    (["basic", "--device", "gpu0"], "--device gpu0", "not usable here"),
    (["basic", "--device", "cuda:x"], "--device cuda:x", "must be cpu, cuda"),
    (["basic", "--device", "cuda:"], "--device cuda:", "must be cpu, cuda"),
    (["basic", "--device", "cuda:-1"], "--device cuda:-1", "must be cpu, cuda"),
    (["basic", "--device", "CUDA"], "--device CUDA", "must be cpu, cuda"),
    (["basic", "--device", "meta"], "--device meta", "must be cpu, cuda"),
    (["ablation", "--device", ""], "--device", "must be cpu, cuda"),
    (["ablation", "--device", "cuda 1"], "--device cuda 1", "must be cpu, cuda"),
    (["basic"], "--data", "no data root given"),
    (["cifar", "--download"], "--data", "no data root given"),
    (
        ["basic", "--data", "{at}/empty"],
        "Fashion-MNIST is not there",
        "--download lets torchvision",
    ),
    (["cifar", "--data", "{at}/fashion"], "CIFAR-10 is not there", "cifar-10-batches-py"),
    (
        ["ablation", "--data", "{at}/empty"],
        "Fashion-MNIST is not there",
        "--download lets torchvision",
    ),
    (["basic", "--scale", "huge"], "--scale", "quick"),
    (["basic", "--data", "{at}/none"], "--data", "does not exist"),
    (["basic", "--data", "{at}/file"], "--data", "is a file"),
    (["cifar", "--data", "{at}/file", "--download"], "--data", "is a file"),
    (["demo", "--out", "{at}/file"], "--out", "no folder"),
    (["demo", "--out", "{at}/file/deeper"], "--out", "no folder"),
    (["demo", "--out", "{at}/torn"], "--out", "not valid JSON"),
    (["demo", "--out", "{at}/list"], "--out", "must be a JSON object"),
    (["demo", "--out", "{at}/folder"], "--out", "is no file"),
    (["basic", "--out", "{at}/file", "--data", "{at}"], "--out", "no folder"),
    (["ablation", "--out", "{at}/file", "--tasks", "digits"], "--out", "no folder"),
    (["report"], "runs", "Missing"),
    (["report", "/"], "RUNS /", "folders; name the run directories"),
    (["report", "{at}/none"], "RUNS", "does not exist"),
    (["report", "{at}/file"], "RUNS", "is a file"),
    (["report", "{at}/empty"], "RUNS", "holds none"),
    (["report", "{at}/torn"], "RUNS", "not valid JSON"),
    (["report", "{at}/list"], "RUNS", "must be a JSON object"),
    (["report", "{at}/number"], "RUNS", "must be a JSON object"),
    (["report", "{at}/binary"], "RUNS", "not valid JSON"),
    (["report", "{at}/deep"], "RUNS", "not valid JSON"),
    (["report", "{at}/nan"], "RUNS", "not valid JSON"),
    (["report", "{at}/folder"], "RUNS", "is no file"),
    (["report", "{at}/records"], "RUNS", "must be a JSON object"),
    (["report", "{at}"], "RUNS", "settings.json"),
    (["advanced"], "advanced", "choose from demo"),
    (["demo", "--size", "3"], "--size", "No such option"),
]


def spoil(folder):
    """The files and folders that the mistakes name."""
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    for name, text in {
        "torn": '{"experiment": ',
        "list": "[1, 2]",
        "number": "3",
        "binary": "\x00\udcff",
        "deep": "[" * 200_000,
        "nan": "nothing",
    }.items():
        run = folder / name
        run.mkdir()
        (run / "settings.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (folder / "records" / "records").mkdir(parents=True)
    (folder / "records" / "settings.json").write_text("{}")
    (folder / "records" / "records" / "t-zero-0.json").write_text("[]")
    (folder / "folder" / "settings.json").mkdir(parents=True)
    (folder / "fashion" / "FashionMNIST" / "raw").mkdir(parents=True)


PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr
from experiments.__main__ import main
results = []
for arguments in json.load(sys.stdin):
    sys.argv, error = ["experiments", *arguments], io.StringIO()
    try:
        with redirect_stderr(error):
            main()
    except SystemExit as end:
        results.append((end.code, error.getvalue()))
heavy = {"torch", "sklearn", "matplotlib", "scipy", "numpy"} & set(sys.modules)
print(json.dumps([results, sorted(heavy)]))
"""


def test_each_mistake_is_one_line_and_exit_2_before_anything_heavy_is_imported(tmp_path):
    spoil(tmp_path)
    rows = [
        ([argument.replace("{at}", str(tmp_path)) for argument in arguments], *words)
        for arguments, *words in MISTAKES
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([arguments for arguments, *_ in rows]),
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != checks.ROOT_VARIABLE},
    )
    results, heavy = json.loads(done.stdout)
    assert not heavy
    for (arguments, *words), (code, text) in zip(rows, results, strict=True):
        assert code == 2, (arguments, text)
        assert len(text.splitlines()) == 1, (arguments, text)
        assert text.startswith("error: "), text
        assert all(word in text for word in words), (arguments, text)


def test_the_module_itself_says_the_same():
    program = [sys.executable, "-m", "experiments", "demo", "--seeds", HUGE]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --seeds 9999")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o000)
    try:
        for check in (checks.writable, lambda path: checks.data(path, download=False)):
            with pytest.raises(UsageError, match=r"cannot be|does not exist"):
                check(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_good_arguments_are_accepted(tmp_path):
    assert checks.seeds(None, default=3) == [0, 1, 2]
    assert checks.seeds("2", default=3) == [0, 1]
    assert checks.seeds(f"7,{2**63 - 1}", default=3) == [7, 2**63 - 1]
    assert checks.seeds("3,", default=9) == [3]
    assert checks.names("--tasks", "noise, digits", ABLATIONS) == ["noise", "digits"]
    checks.resolution(1)
    checks.resolution(checks.FINEST)
    checks.data(tmp_path, download=False)
    (tmp_path / "cifar10").mkdir()
    checks.data(tmp_path, download=False, sets=[checks.CIFAR])
    checks.data(tmp_path / "new", download=True, sets=[checks.CIFAR])
    for device in ("cpu", "cpu:0", "cuda", "cuda:0", "cuda:15", "mps", "xpu:1", "hpu"):
        checks.device(device)
    assert checks.methods("all", DEMO) == list(DEMO.methods)
    assert checks.methods(None, DEMO) == list(DEMO.compared)
    assert checks.methods("phi, zero", DEMO) == ["phi", "zero"]
    assert checks.tasks("all", DEMO) == ["all"]
    assert checks.tasks(None, DEMO) is None
    checks.writable(tmp_path / "several" / "new" / "folders")
    run = tmp_path / "deep" / "run"
    (run / "records").mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    (run / "records" / "torn.json").write_text('{"task"')  # of a process that was killed
    checks.reported([run])
    checks.reported([tmp_path])


def test_the_lattice_has_as_many_points_as_the_message_says():
    from experiments.lattice import points

    assert len(points(8)) == checks.number_of_points(8)
    assert checks.number_of_points(checks.FINEST) == 6545
