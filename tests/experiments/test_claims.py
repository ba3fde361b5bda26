"""Processes that work on one task at the same time: this one, and one more that is really another."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from filelock import Timeout

from experiments import study
from experiments.claims import claimed, divide
from experiments.data import digits
from experiments.methods import METHODS as PAPER
from experiments.methods import Descent, Phi
from experiments.models import MLP
from experiments.records import RunDirectory
from experiments.task import Task
from experiments.train import Recipe
from phiopt import Corruption
from tests.experiments.cases import CPU

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1)
METHODS = ("scratch", "zero", "refused", "default")
RECIPE = Recipe(budget=20, batch_size=32, learning_rates=(1e-3,))
# A process in the background of a shell ignores SIGINT, and so would what it starts.
OTHER = """import signal, sys
from tests.experiments import test_claims
signal.signal(signal.SIGINT, signal.default_int_handler)
test_claims.other(*sys.argv[1:])"""


def task(out, at_work=lambda: None):
    """Its teachers and students are noted in ``out`` as they are made; ``at_work`` is called then."""

    def noted(text):
        with open(out / "made.txt", "a") as file:
            file.write(f"{text}\n")
        at_work()

    def method(name, growth, seed):
        noted(f"{name} {seed}")
        if name == "refused":
            raise ValueError("no growth exists")
        return PAPER[name](growth, seed)

    def taught(seed):
        splits = digits(seed)
        return splits._replace(train=splits.train.of(range(5, 10)))

    return Task(
        name="tiny",
        title="Tiny digits",
        teacher=partial(MLP, 64, (6,), 10),
        student=partial(MLP, 64, (9,), 10),
        splits=digits,
        teacher_splits=taught,
        teacher_recipe=RECIPE,
        student_recipe=RECIPE,
        phi=Phi(Corruption(0.3), 32, Descent(3, 1e-3), Descent(3, 1e-3)),
        theta=0.05,
        methods={name: partial(method, name) for name in METHODS},
    )


def run(out, at_work=lambda: None):
    directory = RunDirectory(out / "run", {})
    actual = study.run(task(out, at_work), METHODS, SEEDS, directory, CPU)
    return json.dumps(actual)


def other(out, until):
    """The other process: it says when it is at its first student, and stays there a while."""
    out = Path(out)

    def at_work():
        (out / "at work").touch()
        patiently(lambda: len(list((out / "run" / "records").glob("tiny*"))) >= int(until))

    (out / "other.json").write_text(run(out, at_work))


def patiently(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path):
    """Starts the other process and waits until it is at work."""
    started = []

    def start(until):
        command = [sys.executable, "-c", OTHER, str(tmp_path), str(until)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        started.append(process)
        patiently(lambda: (tmp_path / "at work").exists() or process.poll() is not None)
        assert process.poll() is None
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def locks(out):
    return list(out.rglob("*.lock"))


def made(out):
    return sorted((out / "made.txt").read_text().splitlines())


CELLS = sorted(f"{method} {seed}" for method in METHODS for seed in SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("until", [2, 5])
def test_two_processes_divide_the_cells_and_end_with_the_same_tables(tmp_path, start, until):
    # With 5 of 6, it holds its first cell until this process has nothing left but to wait for it.
    process = start(until)
    assert len(locks(tmp_path)) == 1
    ours = run(tmp_path)
    assert process.wait(60) == 0
    assert (tmp_path / "other.json").read_text() == ours
    assert {(r["method"], r["seed"]) for r in json.loads(ours)} == {
        (method, seed) for method in METHODS if method != "refused" for seed in SEEDS
    }
    assert made(tmp_path) == CELLS
    assert locks(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_what_a_process_leaves_that_ends_early_is_taken_over(tmp_path, start, end):
    process = start(100)
    (lock,) = locks(tmp_path)
    waited = []

    def at_work():
        # When this process is at the last but one, the other one is still there.
        if len(list((tmp_path / "run" / "records").glob("tiny*"))) == 4 and not waited:
            waited.append(process.poll())
            os.kill(process.pid, end)
            process.wait(60)
            assert lock.exists() == (end == signal.SIGKILL)

    content = json.loads(run(tmp_path, at_work))
    assert waited == [None]
    assert len(content) == 6
    assert made(tmp_path) == sorted([*CELLS, "scratch 0"])
    assert locks(tmp_path) == []


def test_a_teacher_is_trained_by_one_process_while_the_other_goes_on(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path / "run", {})
    order, tune = [], study.tune

    def watched(module, train, validation, recipe, *, seed, **options):
        if not options:
            order.append(f"teacher {seed}")
        return tune(module, train, validation, recipe, seed=seed, **options)

    monkeypatch.setattr(study, "tune", watched)
    tiny = task(tmp_path, lambda: order.append("student"))
    with claimed(directory.teacher_path("tiny", 0), wait=False):
        with pytest.raises(Timeout):
            study.trained_teacher(tiny, digits(0), 0, directory, wait=False)
        study.trained_teacher(tiny, digits(1), 1, directory, wait=False)
    study.run(tiny, ("zero",), SEEDS, directory, CPU)
    assert order == ["teacher 1", "teacher 0", "student", "student"]


def test_a_claim_is_for_one_at_a_time_and_leaves_nothing(tmp_path):
    path = tmp_path / "records" / "a.json"
    with claimed(path, wait=False):
        with pytest.raises(Timeout), claimed(path, wait=False):
            raise AssertionError
        with claimed(path.with_name("b.json"), wait=False):
            pass
    with pytest.raises(ZeroDivisionError), claimed(path, wait=True):
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []


def test_held_items_come_last_and_only_they_are_waited_for():
    calls, kept = [], {"a": 2, "c": 1}

    def work(item, wait):
        calls.append((item, wait))
        if not wait and kept.get(item, 0):
            kept[item] -= 1
            raise Timeout(item)

    divide("abc", work)
    assert calls == [
        *(("a", False), ("b", False), ("c", False)),
        # One of two was free at the second turn: no reason to wait yet.
        *(("a", False), ("c", False)),
        ("a", False),
    ]
    calls.clear()
    kept["a"] = 5
    divide("a", work)
    assert calls == [("a", False), ("a", True)]
