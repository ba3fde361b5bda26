"""Every example runs: the Python blocks of the pages and the ``>>>`` lines of the docstrings."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import phiopt

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MODULES = ["phiopt", *(m.name for m in pkgutil.walk_packages(phiopt.__path__, "phiopt."))]

# A block that cannot run stands right below the comment <!-- illustrative -->.
BLOCK = re.compile(
    r"^(?P<skip><!-- illustrative -->\n+)?```python\n(?P<code>.*?)^```$", re.M | re.S
)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The line at which each block to run starts, and its code."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start("code")) + 1, match["code"])
        for match in BLOCK.finditer(text)
        if not match["skip"]
    ]


def test_blocks_finds_the_code_and_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# T\n\n```python\na = 1\n```\n\n<!-- illustrative -->\n```python\nb\n```\n")
    assert blocks(page) == [(4, "a = 1\n")]


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES if blocks(p)]
)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page):
        # Blank lines in front make a traceback point at the line of the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_the_docstrings_run(module: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    names = {"torch": torch, "nn": nn}
    try:
        actual = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(("phiopt.cli.", "phiopt.training.")):
            raise
        pytest.skip(f"{error.name} is not installed; phiopt[families] has it")
    assert doctest.testmod(actual, extraglobs=names, optionflags=options).failed == 0


def test_docstrings_head_their_examples_as_the_reference_reads_them() -> None:
    sources = (ROOT / "phiopt").rglob("*.py")
    wrong = [
        str(p.relative_to(ROOT)) for p in sources if re.search(r"(?m)^ +Example:$", p.read_text())
    ]
    assert not wrong, "write Examples:, which is set as code; Example: is set as a quotation"


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(p.read_text() for p in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: phiopt\.(?:\w+\.)*(\w+)", reference, re.M))
    documented |= set(re.findall(r"^ +- (\w+)$", reference, re.M))
    public = {name for name in phiopt.__all__ if not name.startswith("__")}
    assert public <= documented, f"not in docs/reference: {sorted(public - documented)}"


def test_the_readme_shows_the_demo_s_own_table() -> None:
    table = re.search(r"(?m)(^\|.*\n)+", (ROOT / "README.md").read_text())
    assert table
    assert table[0] in (ROOT / "docs" / "demo.md").read_text()
