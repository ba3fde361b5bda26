"""What a directory of `learn` keeps of a search: other arguments, damage and other users are met by name."""

import json
import multiprocessing
import shutil
import sys
from dataclasses import replace

import pytest
import torch
import torchopt

import phiopt
from phiopt.bilevel import records
from phiopt.bilevel.outer import OuterLoss
from phiopt.bilevel.run import Run
from phiopt.bilevel.search import Mirror, Optuna
from phiopt.objective import Gaussian
from tests.cases import mlp
from tests.learning import QUICK, V, X, Y, squares
from tests.searches import MODELS, Stop, call, content, counted_solves


@pytest.fixture
def solves(monkeypatch):
    return counted_solves(monkeypatch)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A search of three trials, the best of which is not the first."""
    folder = tmp_path_factory.mktemp("kept")
    return folder, content(call(folder, search=Optuna(trials=3)))


@pytest.fixture
def copied(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "copy")
    return tmp_path / "copy"


def again(folder, **options):
    return call(folder, **{"search": Optuna(trials=3)} | options)


def scaled(factor):
    def loss(outputs, targets):
        return factor * squares(outputs, targets)

    return loss


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, outputs, targets):
        return self.weight * squares(outputs, targets)


OTHERS = {
    "teacher": ({"models": (mlp(4, 3, 2, seed=9), MODELS[1])}, "teacher.0.weight was"),
    "student": ({"models": (MODELS[0], mlp(4, 6, 3, seed=2))}, "student.0.weight was"),
    "frozen": ({"models": (MODELS[0], mlp(4, 5, 3, seed=2))}, "student.0.weight was"),
    "data": ({"data": (X + 1e-9, Y)}, r"data\.0 was"),
    "outer": ({"outer": OuterLoss(V, robust=0.4)}, r"outer\.robust was 0\.5, is 0\.4\."),
    "lambdas": ({"lambdas": (0.4, 0.2, 0.4, 0)}, "lambdas was"),
    "parameters": ({"parameters": ("lambdas", "delta")}, "parameters was"),
    "floor": ({"floor": 0.02}, r"floor was 0\.01, is 0\.02"),
    "search": ({"search": Optuna(trials=4)}, r"search\.trials was 3, is 4"),
    "kind of search": ({"search": Mirror()}, "search was Optuna, is Mirror"),
    "loss": ({"loss": scaled(2.0)}, "loss was None"),
    "neighbourhood": ({"neighbourhood": Gaussian(0.1)}, "neighbourhood was Uniform, is Gaussian"),
    "scale": ({"scale": "paper"}, "scale was"),
    "start": ({"start": "zero"}, "start was None, is 'zero'"),
    "solver": ({"solver": replace(QUICK, steps=7)}, r"solver\.steps was 6, is 7"),
    "rate": (
        {"solver": replace(QUICK, optimizer=torchopt.adam(1e-2, eps_root=1e-16))},
        r"solver\.optimizer.*step_size was -0\.02, is -0\.01",
    ),
    "seed": ({"seed": 1}, "seed was 0, is 1"),
}


@pytest.mark.parametrize(("options", "message"), OTHERS.values(), ids=OTHERS)
def test_other_arguments_are_refused_by_name(options, message, kept, solves):
    with pytest.raises(ValueError, match=rf"^directory: .*other arguments: .*{message}"):
        again(kept[0], **options)
    assert not solves


def changed(**values):
    """A record with other values, and a checksum that fits."""

    def change(text):
        content = json.loads(text) | values
        content = {name: value for name, value in content.items() if value is not ...}
        content.pop("checksum", None)
        fits = records.checksum([json.dumps(content)])
        return json.dumps(content | {"checksum": fits} | values.get("and", {}))

    return change


DAMAGES = {
    "empty": (lambda text: "", "is not valid JSON"),
    "half": (lambda text: text[: len(text) // 2], "is not valid JSON"),
    "digit": (lambda text: text.replace('"gradients": 6', '"gradients": 8'), "checksum is '"),
    "outer": (changed(outer="low"), "outer is 'low', must be a number"),
    "nan": (changed(outer=torch.nan), "outer is nan, must be a number or infinity"),
    "no outer": (changed(outer=...), "outer is missing"),
    "lambdas": (changed(lambdas=[1, 2]), "lambdas is .*, must be four numbers"),
    "weight": (changed(lambdas=[1, 2, None, 3]), r"lambdas\.2 is None, must be a number"),
    "status": (changed(status="FINE"), "status is 'FINE', must be one of SOLVED"),
    "gradients": (changed(gradients=-1), r"gradients is -1, must be in 0 \.\.\. "),
    "again": (changed(again=0), "again is 0, must be true or false"),
    "slopes": (
        changed(derivative={"lambdas": 1.0}),
        "derivative is .*, must be numbers for lambdas",
    ),
    "more": (changed(more=1), "more is 1, must be left out"),
    "list": (lambda text: "[]", r"its JSON is \[\], must be an object"),
    "point": (changed(lambdas=[0.3, 0.4, 0.3, 0]), "is of λ = .*, but the search now asks for λ ="),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_refused_by_file_and_field(damage, message, copied, solves):
    path = copied / "trials" / "0001.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=rf"^directory: .*trials/0001\.json:? .*{message}"):
        again(copied)
    assert not solves


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"format": 2}', "arguments is missing"),
        ('{"format": 1, "arguments": {}}', "format is 1, must be 2"),
        ('{"format": 2, "arguments": {"seed": 0}}', "arguments.seed is 0, must be a string"),
        (None, r"holds trials but no search\.json"),
    ],
)
def test_damaged_settings_are_refused(text, message, copied):
    path = copied / "search.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=rf"^directory: .*{message}"):
        again(copied)


def test_a_best_solution_that_is_damaged_or_another_is_refused(copied, solves, kept):
    (path,) = (copied / "solutions").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"^directory: {path} .*remove it"):
        again(copied)
    path.write_bytes(whole)
    solution = phiopt.Solution.load(path, MODELS[1])
    first = next(iter(solution.params.values()))
    with torch.no_grad():
        first += 1e-3
    solution.save(path)
    with pytest.raises(ValueError, match=r"^directory: .*has outer .*, but computed again it is"):
        again(copied)
    assert not solves
    path.unlink()
    result = content(again(copied))
    assert len(solves) == 1
    assert result == kept[1]


def test_files_that_are_lost_are_made_again(copied, solves, kept):
    """A trial that is not the best; and what a killed process had half written is removed."""
    left = copied / "trials" / ".0001-77-abcd.json"
    left.write_text("{")
    (best,) = [path.stem for path in (copied / "solutions").iterdir()]
    lost = copied / "trials" / ("0001.json" if best != "0001" else "0002.json")
    lost.unlink()
    assert content(again(copied)) == kept[1]
    assert len(solves) == 1
    assert not left.exists()
    assert lost.exists()


def test_data_that_changed_unseen_are_refused(tmp_path, monkeypatch):
    """A loss whose numbers are others than at the first call, where a solve is needed again."""

    class Hidden(Weighted):
        def __init__(self, weight):
            super().__init__(1.0)
            self._hidden = weight

        def __call__(self, outputs, targets):
            return self._hidden * super().__call__(outputs, targets)

    def cut(path, text):
        write(path, text)
        if path.name == "0000.json":
            raise Stop

    write = records.write_text
    monkeypatch.setattr(records, "write_text", cut)
    with pytest.raises(Stop):
        call(tmp_path, outer=OuterLoss(V, loss=Hidden(1.0)))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^directory: .*0000.json has outer .* computed again"):
        call(tmp_path, outer=OuterLoss(V, loss=Hidden(1.5)))


def test_a_directory_is_a_path_and_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    for value, error in ((tmp_path / "file", ValueError), (3, TypeError), ("", ValueError)):
        with pytest.raises(error, match=r"^directory: got"):
            call(value)


def at_once(folder, place, log):
    real = Run._solved

    def noted(self, *args):
        with open(log, "a") as file:
            file.write("solve\n")
        return real(self, *args)

    Run._solved = noted
    # A fork has none of its parent's OpenMP threads, and would wait for them.
    torch.set_num_threads(1)
    result = content(again(folder))
    place.write_text(json.dumps([result["text"], result["params"]]))


def test_two_processes_at_once_share_one_search(tmp_path, kept):
    """One waits for the other, and finds all of its trials."""
    fork = multiprocessing.get_context("fork")
    places = [tmp_path / "a.json", tmp_path / "b.json"]
    log = tmp_path / "log"
    processes = [fork.Process(target=at_once, args=(tmp_path / "search", p, log)) for p in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    expected = [kept[1]["text"], kept[1]["params"]]
    assert [json.loads(p.read_text()) for p in places] == [expected, expected]
    assert log.read_text().count("solve") == len(kept[1]["path"])


def test_the_bar_starts_at_what_is_kept(kept, monkeypatch):
    starts = []
    verb = sys.modules["phiopt.learn"]
    real = verb.tqdm

    def bar(*args, **options):
        starts.append(options["initial"])
        return real(*args, **options)

    monkeypatch.setattr(verb, "tqdm", bar)
    again(kept[0])
    assert starts == [3]
