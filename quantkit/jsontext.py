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


def dump_json(value: Any, *, indent: int | None = None, carried: bool = False) -> str:
    """JSON text that every encoding can hold that holds letters: a lone surrogate is written as its escape.

    NaN and infinities, which JSON has not, become null; what is `carried` from a file of transformers, which writes
    and reads them, keeps them.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=carried)
    except ValueError:
        text = json.dumps(_without_nonfinite(value), indent=indent, ensure_ascii=False)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # strings alone can hold one


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
