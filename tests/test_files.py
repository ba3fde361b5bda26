"""A file that somebody damaged or made up is refused by a ValueError that names it, and nothing of it is run."""

import ast
import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import phiopt
from phiopt._files import atomic
from phiopt._json import parsed

ROOT = Path(__file__).parent.parent


def net(hidden, classes, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 2), nn.BatchNorm2d(hidden), nn.Flatten(),
        nn.Linear(hidden, classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A file of each kind, and what loads it."""
    torch.manual_seed(0)
    teacher, student, x = net(2, 2), net(3, 3, 2), torch.randn(6, 1, 2, 2)
    lift = phiopt.lift.Compose(phiopt.lift.Channels(2, "place"), phiopt.lift.Pad((2, 2)))
    folder = tmp_path_factory.mktemp("files")
    growth = phiopt.GrowthMap.between(teacher, student, classes=[2, 0], inputs=x, lift=lift)
    growth.save(folder / "map.safetensors")
    data = x, torch.arange(6) % 2
    few = phiopt.TorchOpt(steps=2, batch_size=3)
    solution = phiopt.initialize(
        teacher, student, (0.5, 0.3, 0.2, 0), data, lift=lift, classes=[2, 0], solver=few,
        restarts=1, throw=False,
    )  # fmt: skip
    solution.save(folder / "solution.safetensors")
    return {
        "map": (
            folder / "map.safetensors",
            lambda path: phiopt.GrowthMap.load(path, teacher, student),
        ),
        "solution": (
            folder / "solution.safetensors",
            lambda path: phiopt.Solution.load(path, student),
        ),
    }


def opened(path):
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()["phiopt"]


def refused(load, path, *words):
    """It is, and the error names the path and the words."""
    with pytest.raises(ValueError, match=r"^(path|lift)") as caught:
        load(path)
    said = str(caught.value)
    assert str(path) in said
    assert len(said) < 1500
    assert all(word in said for word in words), said


@pytest.fixture(params=["map", "solution"])
def kind(request, kinds, tmp_path):
    path, load = kinds[request.param]
    tensors, header = opened(path)

    def made(header=header, tensors=tensors):
        save_file(tensors, tmp_path / "made.safetensors", metadata={"phiopt": header})
        return tmp_path / "made.safetensors"

    return request.param, path, load, made, tensors, header


def places(value, way=()):
    """The way to every value of a JSON."""
    yield way
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))


OTHERS = (None, [], [[]], {}, {"kind": 1}, "os.system", -1, 2**70, 0.5, True, [1, 1], {"": {}})
GONE = object()


def changed(header, way, value):
    """The header with another value at the place."""
    whole = {"": json.loads(header)}
    *path, last = ("", *way)
    holder = whole
    for key in path:
        holder = holder[key]
    if value is GONE:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(whole.get(""))


def changes(header, most):
    every = [
        (w, v) for w in places(json.loads(header)) for v in (*OTHERS, GONE) if w or v is not GONE
    ]
    return every if most is None else random.Random(0).sample(every, min(most, len(every)))


@pytest.mark.parametrize("most", [250, pytest.param(None, marks=pytest.mark.slow)])
def test_any_field_of_another_type_is_refused_or_holds(kind, most):
    """What is allowed at the place, such as another remark or number, is no damage that can be told."""
    name, _, load, made, _, header = kind
    counts = {"refused": 0, "held": 0}
    for way, value in changes(header, most):
        path = made(changed(header, way, value))
        try:
            load(path)
            counts["held"] += 1
        except ValueError as error:
            counts["refused" if str(path) in str(error) else str(error)] = counts["refused"] + 1
    assert list(counts) == ["refused", "held"]
    assert counts["refused"] > 3 * counts["held"], (name, counts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: "[]", ["its JSON is []", "an object"]),
        (lambda h: "7", ["its JSON is 7"]),
        (lambda h: h[:-9], ["not valid JSON"]),
        (lambda h: '{"kind": ' + "[" * 5000 + "]" * 5000 + "}", ["nested too deeply"]),
        (lambda h: "[" * 5000, ["nested too deeply"]),
        (lambda h: h[:-1] + ', "kind": "x"}', ["'kind' is given twice"]),
        (lambda h: '{"kind": ' + "9" * 5000 + "}", ["not valid JSON"]),
        (lambda h: changed(h, ("version",), 2), ["has format 2"]),
        (lambda h: changed(h, ("version",), "1"), ["version is '1', must be a whole number"]),
        (lambda h: changed(h, ("version",), GONE), ["version is missing"]),
        (lambda h: changed(h, ("kind",), "<b>"), ["holds <b>, not a"]),
    ],
)
def test_a_header_that_is_something_else_is_refused(kind, change, words):
    _, _, load, made, _, header = kind
    refused(load, made(change(header)), *words)


def test_bytes_that_are_no_file_of_tensors_are_refused(kind, tmp_path):
    _, path, load, *_ = kind
    whole, other = path.read_bytes(), tmp_path / "other.safetensors"
    header = struct.unpack("<Q", whole[:8])[0]
    damaged = [whole[:n] for n in (0, 7, 8, 100, 8 + header, len(whole) - 1)]
    damaged += [
        struct.pack("<Q", size) + whole[8:] for size in (0, 2**40, 2**63, header - 1, header + 1)
    ]
    damaged += [whole[:8] + b"\xff\xfe" + whole[10:], whole + b"more", b"\x80\x04K\x01."]
    for content in damaged:
        other.write_bytes(content)
        refused(load, other)
    with pytest.raises(OSError, match="missing"):
        load(tmp_path / "missing")
    with pytest.raises(OSError, match=tmp_path.name):
        load(tmp_path)


def test_state_of_other_names_shapes_and_dtypes_are_refused(kind):
    name, _, load, made, tensors, _ = kind
    for key, value in tensors.items():
        refused(load, made(tensors={**tensors, key: value[None].contiguous()}), key)
        if value.dtype != torch.float64:
            refused(load, made(tensors={**tensors, key: value.double()}), key, "float64")
    refused(load, made(tensors={**tensors, "more": torch.zeros(2)}), "more")
    without = dict(list(tensors.items())[1:])
    if name == "solution" or "classes" not in without:
        refused(load, made(tensors=without), next(iter(tensors)))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([0, 3], ["0.weight/0", "0 to 3, must lie in 0 ... 2"]),
        ([-1, 1], ["-1 to 1"]),
        ([1, 1], ["gives a coordinate twice"]),
        ([0, 1, 2], ["must be 2 whole numbers"]),
        ([], ["must be 2 whole numbers"]),
    ],
)
def test_a_placement_outside_its_axis_or_given_twice_is_refused(kinds, tmp_path, places, words):
    path, load = kinds["map"]
    tensors, header = opened(path)
    tensors["0.weight/0"] = torch.tensor(places, dtype=torch.int64)
    save_file(tensors, tmp_path / "m", metadata={"phiopt": header})
    refused(load, tmp_path / "m", *words)


def test_a_name_of_no_class_is_refused_and_not_looked_up(kinds, tmp_path):
    for kind, way, word in (
        ("map", ("lift", "kind"), "lift.kind"),
        ("map", ("example", 1), "example.1"),
        ("solution", ("report", "stats", "class"), "report.stats.class"),
        ("solution", ("report", "status", "status"), "report.status.status"),
    ):
        path, load = kinds[kind]
        tensors, header = opened(path)
        header = changed(header, way, "load")
        save_file(tensors, tmp_path / kind, metadata={"phiopt": header})
        refused(load, tmp_path / kind, word)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyError), atomic(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_refused_by_what_is_wrong_with_it():
    for text, word in ((b"\xff", "utf-8"), ("{", "Expecting"), ('{"a":1,"a":2}', "given twice")):
        with pytest.raises(ValueError, match=rf"^here is not valid JSON .*{word}"):
            parsed(text, "here")


PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def weights_only(call):
    return any(
        k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in call.keywords
    )


@pytest.mark.parametrize("folder", ["phiopt", "experiments"])
def test_no_pickle_is_read_anywhere(folder):
    """A checkpoint of PyTorch is read with ``weights_only``, which makes nothing but tensors and plain values."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        safe = [n.func for n in nodes if isinstance(n, ast.Call) and weights_only(n)]
        for node in nodes:
            if isinstance(node, ast.Import):
                assert not PICKLES & {alias.name.split(".")[0] for alias in node.names}, file
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in PICKLES, file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                read = called == "torch.load" and node in safe
                assert read or called not in {"torch.load", "np.load", "numpy.load"}, (file, called)
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, file
