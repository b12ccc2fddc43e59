"""Text as Markdown shows it, whatever is in it: words, code, blocks of code, links to the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable

from quantkit.report.html.markup import visible

MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@])")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", visible(text)).replace("www.", "www\\.")


def code(text: str, *, cell: bool = False) -> str:
    """A code span, whatever backticks are in it; `cell`: in a table, where pipes are escaped even there."""
    shown = visible(text)
    fence = _fence(shown, 1)
    inner = f" {shown} " if "`" in shown or not shown.strip() else shown
    return fence + (inner.replace("|", "\\|") if cell else inner) + fence


def block(language: str, lines: Iterable[str]) -> list[str]:
    """A fenced block that its lines cannot leave."""
    shown = list(lines)
    fence = _fence("\n".join(shown), 3)
    return [f"{fence}{language}", *shown, fence]


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(longest + 1, least) if longest >= least else "`" * least


def linked(repo: str) -> str:
    return f"[{plain(repo)}](https://huggingface.co/{repo})" if REPOSITORY.fullmatch(repo) else code(repo)
