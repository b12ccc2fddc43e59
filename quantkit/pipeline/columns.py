"""Figures and text in lines of a terminal, and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from textwrap import wrap
from unicodedata import east_asian_width

from quantkit.evaluation.figures import Estimate
from quantkit.evaluation.gates import LONG
from quantkit.untrusted import shown

NARROW, WIDE = 60, 120  # columns that lines are made for
LABEL = 16
NO_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~])")


def figure(value: float) -> str:
    """A number with the digits that count; without an end of zeros for a model that is sure of wrong tokens."""
    if abs(value) < 1 or abs(value) >= LONG:
        return f"{value:.3g}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def with_error(found: Estimate, scale: float = 1.0) -> str:
    """ "0.00217 ± 0.00013"."""
    value = figure(scale * found.value)
    return value if found.error is None else f"{value} ± {scale * found.error:.2g}"


def percent(found: Estimate) -> str:
    value = f"{100 * found.value:.2f}"
    return f"{value} %" if found.error is None else f"{value} ± {100 * found.error:.2f} %"


def beside(names: Sequence[str], right: Sequence[str], width: int) -> list[str]:
    """A table with names before its columns, cut to what is left of the width; both begin with their heads."""
    room = min(width - max(map(len, right)) - 2, max(map(len, names)))
    shorter = [cut(name, room) for name in names]
    return [f"{name:<{room}}  {line}".rstrip() for name, line in zip(shorter, right, strict=True)]


def named(name: str, text: str, width: int) -> Iterator[str]:
    yield from wrapped(f"  {name:<{LABEL}}  {text}", width, LABEL + 4)


def wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Names stay whole where they can: hyphens are no place to break."""
    return wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def one_line(text: str) -> str:
    """Text on one line, what is not printable escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese characters and their like take two."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, room: int) -> str:
    text = shown(text, max(len(text), 1)) if text else text
    if width_of(text) <= room:
        return text
    ends = accumulate(map(width_of, text))
    return text[: sum(end < room for end in ends)] + "…"


def tail(text: str, room: int) -> str:
    if width_of(text) <= room:
        return text
    ends = accumulate(map(width_of, reversed(text)))
    return "…" + text[len(text) - sum(end < room for end in ends) :]


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return NO_MARKDOWN.sub(r"\\\1", one_line(text))
