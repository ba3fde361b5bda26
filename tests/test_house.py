"""The shape of the house: no import circles in phiopt/, and no long file or function anywhere.

The lists name what is still too long or circular. They only get shorter: an entry that is no longer needed fails too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE_LINES, FUNCTION_LINES = 300, 60

CIRCLES: set[tuple[str, ...]] = set()
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "phiopt").rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {n.removesuffix(".__init__"): f for n, f in zip(names, files, strict=True)}


def imports(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """The library's modules that a file names in an import: at its top, in a function, or for type checkers only."""
    actual = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            actual |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                actual.add(inner if inner in known else str(node.module))
    return actual & known.keys()


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Groups of modules each of which reaches all the others."""
    reached = {name: reach(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return {group for group in groups if len(group) > 1}


def reach(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def long_functions(file: Path) -> Iterator[str]:
    """Functions of more than 60 lines, docstrings apart."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None
            lines -= text.end_lineno - text.lineno + 1
        if lines > FUNCTION_LINES:
            yield f"{file.relative_to(ROOT).as_posix()}: {node.name}"


def check(actual: set[Any], listed: set[Any]) -> None:
    assert not actual - listed, f"circular or too long: {sorted(actual - listed)}"
    done = listed - actual
    assert not done, f"mended: take {sorted(done)} off the list above"


def test_no_import_circles() -> None:
    known = modules()
    graph = {name: imports(ast.parse(f.read_text()), known) for name, f in known.items()}
    graph = {name: actual - {name} for name, actual in graph.items()}
    check(circles(graph), CIRCLES)


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == {("b", "c")}
    text = "if TYPE_CHECKING:\n    from phiopt.growth import map\ndef f():\n    import phiopt.lift"
    assert imports(ast.parse(text), modules()) == {"phiopt.growth.map", "phiopt.lift"}


def files() -> list[Path]:
    folders = ("phiopt", "experiments", "benchmarks", "tests")
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_no_long_files() -> None:
    lengths = {f: len(f.read_text().splitlines()) for f in files()}
    actual = {f.relative_to(ROOT).as_posix() for f, n in lengths.items() if n > FILE_LINES}
    check(actual, LONG_FILES)


def test_no_long_functions() -> None:
    actual = {line for file in files() for line in long_functions(file)}
    check(actual, LONG_FUNCTIONS)
