"""The package as a whole: its metadata, what its import loads, which way its imports point."""

import ast
import importlib
import pickle
import re
import subprocess
import sys
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import FunctionType

import pytest

import phiopt

ROOT = Path(__file__).parent.parent

# The rooms of phiopt/ from the ground up. A room imports only rooms of earlier floors, or itself.
FLOORS = [
    {"_types", "_json", "_outputs", "_printed", "_progress", "_shown", "_meant", "_warnings"},
    {"_modules", "_transforms", "_attention", "_vector", "_inputs"},
    {"_described", "_checks", "_order", "_records", "_randomness"},
    {"_files", "_given", "_paths"},
    {"_figures"},
    {"lift", "derivatives", "data"},
    {"growth", "optimizers", "distributed"},
    {"objective", "training"},
    {"_evaluation"},
    {"check", "criteria", "solve"},
    {"bilevel"},
    {"_arguments", "_solving"},
    {"_resuming"},
    {"_task_checks", "_traps"},
    {"problem"},
    {"_posing"},
    {"pose"},
    {"initialize", "estimate_cost"},
    {"learn"},
    {"cli"},
    {"__init__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that know PyTorch and NumPy and nothing else from outside.
TORCH_ONLY = {
    "_types",
    "_warnings",
    "_outputs",
    "_modules",
    "_attention",
    "_transforms",
    "_checks",
    "_meant",
    "_order",
    "_shown",
    "_vector",
    "lift",
    "growth",
    "derivatives",
    "criteria",
    "data",
}


# What no public name needs before it is called.
HEAVY = ("torchvision", "matplotlib", "sklearn", "pandas", "rich", "typer", "experiments")
HEAVY += ("scipy.stats", "scipy.optimize", "scipy.linalg", "optuna")


@cache
def imported_modules(file: Path) -> set[str]:
    """Absolute names of every module ``file`` imports, at any depth."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    actual = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            actual |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from phiopt import growth` names a room in its alias.
            actual |= {f"{module}.{a.name}" for a in node.names} if module == "phiopt" else {module}
    return actual


def room(file: Path) -> str:
    parts = file.relative_to(ROOT / "phiopt").with_suffix("").parts
    return parts[0]


LIBRARY = sorted((ROOT / "phiopt").rglob("*.py"))


def test_imports_inside_the_library_point_one_way() -> None:
    rooms = {room(file) for file in LIBRARY} - FLOOR_OF.keys()
    assert not rooms, f"phiopt/{sorted(rooms)} are new rooms: say in FLOORS where they stand"
    for file in LIBRARY:
        here = room(file)
        names = {n.split(".")[1] for n in imported_modules(file) if n.startswith("phiopt.")}
        back = {n for n in names - {here} if FLOOR_OF.get(n, -1) >= FLOOR_OF[here]}
        assert not back, f"{file.relative_to(ROOT)} imports {sorted(back)}, which stand above it"


def test_the_library_knows_no_experiment_no_data_set_and_no_plot() -> None:
    outside = {"experiments", "benchmarks", "tests", "sklearn", "rich", "typer"}
    for file in LIBRARY:
        tops = {name.split(".")[0] for name in imported_modules(file)}
        assert not tops & (outside - {"typer"} if room(file) == "cli" else outside), file
        assert "torchvision.datasets" not in imported_modules(file), file
        if room(file) in TORCH_ONLY:
            optional = {"matplotlib"} if room(file) == "growth" else set()  # GrowthMap.plot
            allowed = {"torch", "numpy", "phiopt", *optional, *sys.stdlib_module_names}
            assert tops <= allowed, file


def test_importing_phiopt_loads_nothing_but_its_own_table_of_names() -> None:
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport phiopt\n"
        "print(sorted(set(sys.modules) - before))\n"
        "phiopt.grow, phiopt.GrowthMap, phiopt.lift\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'torchopt', 'optree', 'functorch', 'scipy', 'tqdm'}))\n"
        # A file of a verb's name is imported before the verb is used.
        "import phiopt.pose\nfrom phiopt.learn import learn\n"
        "print(phiopt.learn is learn, callable(phiopt.pose), callable(phiopt.initialize))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["['phiopt']", "[]", "True True True", "[]"]


def test_a_file_of_a_verbs_name_does_not_take_the_verbs_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {file.stem for file in (ROOT / "phiopt").glob("*.py")}
    verbs = {name for name in files & set(phiopt.__all__) if callable(getattr(phiopt, name))}
    assert verbs == {"check", "estimate_cost", "initialize", "learn", "pose"}
    for name in verbs:
        monkeypatch.setitem(vars(phiopt), name, None)
        setattr(phiopt, name, sys.modules[f"phiopt.{name}"])  # as the import of the file does
        verb = getattr(phiopt, name)
        assert isinstance(verb, FunctionType)
        assert pickle.loads(pickle.dumps(verb)) is verb


def test_type_checkers_see_the_public_names_and_no_others() -> None:
    tree = ast.parse((ROOT / "phiopt" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname, "re-exported: `import X as X`"
            seen[alias.name] = node.module
    assert sorted(seen) == phiopt.__all__
    assert set(phiopt.__all__) <= set(dir(phiopt))
    for name, home in seen.items():
        defined = getattr(importlib.import_module(str(home)), name)
        assert getattr(phiopt, name) is defined, name


def test_an_unknown_name_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="module 'phiopt' has no attribute 'initialise'"):
        _ = phiopt.initialise
    with pytest.raises(ImportError, match="initialise"):
        from phiopt import initialise  # noqa: F401


def test_an_error_at_the_first_use_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(phiopt), "masked", raising=False)
    monkeypatch.setitem(sys.modules, "phiopt.optimizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"phiopt\.optimizers"):
        _ = phiopt.masked


def test_version_is_the_installed_one_and_has_a_changelog_entry() -> None:
    assert phiopt.__version__ == metadata.version("phiopt")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(phiopt.__version__)}\]", changelog, re.M)


def test_the_type_marker_is_shipped() -> None:
    assert resources.files("phiopt").joinpath("py.typed").is_file()


ALIASES = {"Lift", "Loss", "Params", "Source"}


def test_every_public_name_exists_and_is_documented() -> None:
    types = (ROOT / "docs" / "reference" / "types.md").read_text()
    assert len(set(phiopt.__all__)) == len(phiopt.__all__)
    for name in phiopt.__all__:
        assert hasattr(phiopt, name), f"phiopt.__all__ promises {name}"
        item = getattr(phiopt, name)
        if name in ALIASES:
            assert re.search(rf"^::: phiopt[\w.]*\.{name}$", types, re.M), (
                f"phiopt.{name} has no entry"
            )
        elif callable(item):
            assert item.__doc__, f"phiopt.{name} has no docstring"


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in metadata.requires("phiopt") or []:
        name = re.match(r"[\w.-]+", requirement)
        assert name
        if name[0] != "phiopt":
            assert re.search(rf"\|\s*`{name[0]}`\s*\|\s*\S", reasons), f"{name[0]} has no reason"
