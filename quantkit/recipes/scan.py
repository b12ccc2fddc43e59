"""A look at TOML before it is parsed: the parser's time and memory grow with the square of some small files."""

from __future__ import annotations

import re

MAX_DEPTH = 8  # brackets within brackets
MAX_DOTS = 8  # of one key
MAX_ITEMS = 20_000  # keys, values and tables
MAX_WORD = 200  # characters of a number or a bare key

# Tokens, each found in one step from left to right: possessive, so that nothing is looked at twice.
TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}+'
    r"|'''(?:[^']|'(?!''))*+'{3,5}+"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|\#[^\n]*+"
    r"|[A-Za-z0-9_+:-]++"
    r"|[^\S\n]++"
    r"|.",
    re.DOTALL,
)


class TooComplexError(ValueError):
    """TOML that is deeper, longer or denser than any recipe."""


def require_simple(text: str, most: int = MAX_ITEMS) -> None:
    """Raise TooComplexError, saying where, for TOML that no recipe needs, in linear time. `most` bounds its values."""
    depth = dots = items = 0
    for found in TOKEN.finditer(text):
        token = found[0]
        first = token[0]
        if token in {'"', "'"}:
            return  # a string that does not end: the parser says so at once
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        elif first == ".":
            dots += 1
        if first in "=,[{\n":
            dots = 0
            items += first != "\n"
        if depth > MAX_DEPTH or dots > MAX_DOTS:
            raise _refused(text, found.start(), "keys or brackets nested too deeply")
        if items > most:
            raise _refused(text, found.start(), f"more than {most:,} values")
        if len(token) > MAX_WORD and first not in "\"'#" and not first.isspace():
            raise _refused(text, found.start(), f"a number or key of {len(token):,} characters")


def _refused(text: str, at: int, why: str) -> TooComplexError:
    return TooComplexError(f"{why}, at line {text.count(chr(10), 0, at) + 1}")
