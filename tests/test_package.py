"""The package as a whole: its metadata, what its import loads, which way its imports point."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import metadata, resources
from pathlib import Path

import phiopt

ROOT = Path(__file__).parent.parent

# The rooms of phiopt/ from the ground up. A room imports only rooms of earlier floors, or itself.
FLOORS = [
    {"_types", "_json"},
    {"_modules", "_transforms", "_attention", "_vector"},
    {"_described", "_checks", "_records", "_randomness"},
    {"_files"},
    {"lift", "derivatives", "data"},
    {"growth", "optimizers", "distributed"},
    {"objective"},
    {"_evaluation"},
    {"check", "criteria", "solve"},
    {"bilevel"},
    {"_arguments"},
    {"_task_checks"},
    {"problem"},
    {"_posing"},
    {"pose"},
    {"initialize"},
    {"learn"},
    {"__init__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that know PyTorch and NumPy and nothing else from outside.
TORCH_ONLY = {
    "_types",
    "_modules",
    "_attention",
    "_transforms",
    "_checks",
    "_vector",
    "lift",
    "growth",
    "derivatives",
    "criteria",
    "data",
}


@cache
def imported_modules(file: Path) -> set[str]:
    """Absolute names of every module ``file`` imports, at any depth."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from phiopt import growth` names a room in its alias.
            found |= {f"{module}.{a.name}" for a in node.names} if module == "phiopt" else {module}
    return found


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
        assert not tops & outside, file
        assert "torchvision.datasets" not in imported_modules(file), file
        if room(file) in TORCH_ONLY:
            optional = {"matplotlib"} if room(file) == "growth" else set()  # GrowthMap.plot
            allowed = {"torch", "numpy", "phiopt", *optional, *sys.stdlib_module_names}
            assert tops <= allowed, file


def test_importing_phiopt_loads_nothing_heavy_beside_torch() -> None:
    heavy = ("torchvision", "matplotlib", "sklearn", "pandas", "rich", "typer", "experiments")
    heavy += ("scipy.stats", "scipy.optimize", "scipy.linalg", "optuna")
    code = f"import sys, phiopt; print([m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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
