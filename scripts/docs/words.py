"""Markdown from values: what a cell of a table may hold, tables, counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MADE = "\n<!-- made from the code by scripts/docs: edit that -->\n"  # at the end: a page begins with its title


def cell(text: object) -> str:
    """Plain text as the cell of a table: one line, in which nothing is markup."""
    said = " ".join(str(text).split())
    for sign in "&\\|*_[]<>":  # the first is in what stands for the others
        said = said.replace(sign, f"&#{ord(sign)};")
    return said


def code(text: object) -> str:
    """Text as code in the cell of a table, "" as nothing."""
    said = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return f"<code>{said}</code>" if said else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose last `numbers` columns are numbers. Cells are Markdown already."""
    marks = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [head, marks, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def block(text: str, language: str = "") -> str:
    """A fenced block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n\n"


def paragraphs(text: str) -> str:
    """A docstring as paragraphs of plain text; what stands between backticks stays code."""
    parts = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "".join(f"{part}\n\n" for part in parts)
