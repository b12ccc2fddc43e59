"""JSON as quantkit writes it: UTF-8 with letters as they are, and text that UTF-8 cannot hold as \\u escapes.

File names on Linux are bytes. Those that are not UTF-8 come as lone surrogates (PEP 383), and so may strings of JSON
files from outside. As \\udcff they survive: whoever reads the JSON back in Python has the same string, and
os.fsencode the same bytes.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")


class LongNumber(float):
    """A number of a file that is too large for a float, where it is infinite; `digits` is how it was written."""

    def __new__(cls, digits: str) -> LongNumber:
        self = super().__new__(cls, digits)
        self.digits = digits
        return self

    digits: str


def dump_json(value: Any, *, indent: int | None = None, carried: bool = False) -> str:
    """JSON text that every encoding can hold that holds letters: a lone surrogate is written as its escape.

    NaN and infinities, which JSON has not, become null; what is `carried` from a file of transformers, which writes
    and reads them, keeps them, and a `LongNumber` its digits.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=carried)
    except ValueError:
        text = json.dumps(_without_nonfinite(value), indent=indent, ensure_ascii=False)
    if carried and ("Infinity" in text or "e+308" in text):  # what long numbers look like
        text = _with_digits(value, text, indent)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # strings alone can hold one


def _with_digits(value: Any, text: str, indent: int | None) -> str:
    """`text`, the JSON of `value`, with its long numbers as they were written."""
    mark = "#"
    while mark in text:
        mark += mark
    kept: list[str] = []
    marked = _marked(value, mark, kept)
    if not kept:
        return text
    text = json.dumps(marked, indent=indent, ensure_ascii=False)
    return re.sub(rf'"{mark}([0-9]+)"', lambda found: kept[int(found[1])], text)


def _marked(value: Any, mark: str, kept: list[str]) -> Any:
    """`value` with texts in the place of long numbers, whose digits go to `kept`."""
    if isinstance(value, dict):
        return {key: _marked(each, mark, kept) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(each, mark, kept) for each in value]
    if not isinstance(value, LongNumber):
        return value
    kept.append(value.digits)
    return f"{mark}{len(kept) - 1}"


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nonfinite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def canonical_json(value: Any) -> bytes:
    """The one text of a JSON value: keys sorted, no space, ASCII alone. What seals are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def utf8(text: str) -> bytes:
    """UTF-8 of any string: a lone surrogate becomes its escape, \\udcff, as text."""
    return text.encode("utf-8", "backslashreplace")
