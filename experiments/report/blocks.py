"""The parts of a page, written as Markdown and as HTML."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from experiments.report.tables import Table, markdown_text

STYLE = """body { font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
caption { text-align: left; font-weight: bold; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } pre { background: #f4f4f4; padding: .5rem; overflow-x: auto; }"""


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Items:
    lines: Sequence[str]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Figure:
    path: Path
    """SVG, relative to the page."""
    caption: str


Block: TypeAlias = Heading | Text | Items | Code | Figure | Table


def markdown(blocks: Sequence[Block]) -> str:
    return "\n".join(_markdown(block) for block in blocks)


def html(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """A page of its own: figures, read from ``folder``, are inside it."""
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {markdown_text(text)}\n"
        case Text(text):
            return f"{markdown_text(text)}\n"
        case Items(lines):
            return "\n".join(f"- {markdown_text(line)}" for line in lines) + "\n"
        case Code(text):
            ticks = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, ticks + 1)  # which no line of it can close
            return f"{fence}\n{text}\n{fence}\n"
        case Figure(path, caption):
            text = markdown_text(caption).replace("]", r"\]").replace("[", r"\[")
            return f"![{text}]({quote(path.as_posix())})\n"
        case Table():
            return block.markdown()


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Items(lines):
            return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Figure(path, caption):
            data = base64.b64encode((folder / path).read_bytes()).decode()
            alt = escape(caption, quote=True)
            return f'<p><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></p>'
        case Table(title, columns, rows):
            head = _row("th", columns)
            body = "".join(_row("td", row) for row in rows)
            return f"<table><caption>{escape(title)}</caption>{head}{body}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
