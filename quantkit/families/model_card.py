"""The model card: YAML between two lines of three dashes at the start of README.md, read in bounded time.

Cards are written by hand and by strangers. One that cannot be read says nothing of the model, and is no reason to stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantkit.untrusted import shown

CARD_FILE = "README.md"
FENCE = "---"
MAX_BYTES = 1 << 20  # real ones have a few kilobytes; those with results of benchmarks a few hundred
MAX_EVENTS = 100_000  # of the parser: one for each scalar, and two for each list and mapping
MAX_DEPTH = 32
MAX_SLOW = 1 << 16  # characters for the parser that is written in Python
MAX_ALIASES = 1000
MAX_MERGED_ALIASES = 8  # in a card that merges mappings, where aliases multiply
MAX_NUMBER = 200  # characters
NUMBER = re.compile(rf"[-+.0-9][-+0-9a-fxo_.:,\s]{{{MAX_NUMBER},}}", re.IGNORECASE)
MERGE = "<<"


class CardError(ValueError):
    """Front matter that cannot be read; the message says why and is fit for a terminal."""


def read_card(data: bytes) -> Mapping[str, Any]:
    """What the front matter of a README.md says; {} where there is none, or no mapping in it. Raises CardError.

    Values are whatever YAML knows: text, numbers, dates, lists, mappings, sets, bytes.
    """
    text = _front_matter(data)
    if not text:
        return {}
    import yaml  # only here: starting the command line must not pay for it, nor a model without a card

    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times as fast
    try:
        parsed = _parsed(text, fast)
    except CardError:
        # libyaml wants escapes that are whole characters; half a surrogate pair is what some programs write.
        if len(text) > MAX_SLOW:
            raise
        parsed = _parsed(text, yaml.SafeLoader)
    return parsed if isinstance(parsed, dict) else {}


def _parsed(text: str, loader: Any) -> Any:
    import yaml

    try:
        _require_simple(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)  # a safe loader: plain data only
    except yaml.YAMLError as error:
        raise CardError(shown(str(error).replace("\n", " "), 200)) from error
    except ValueError as error:
        raise CardError(shown(str(error), 200)) from error
    except (TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        # What int(), float(), datetime() and the library's own tables raise of malformed values.
        raise CardError("a value is malformed") from error


def _front_matter(data: bytes) -> str:
    if not data.startswith(FENCE.encode()):
        return ""
    lines = data[: MAX_BYTES + 1].decode("utf-8", "replace").splitlines()
    if lines[0] != FENCE:
        return ""
    if FENCE in lines[1:]:
        front = lines[1 : lines.index(FENCE, 1)]
    elif len(data) > MAX_BYTES:
        raise CardError(f"it does not end within {MAX_BYTES:,} bytes")
    else:
        front = lines[1:]
    # Two mistakes that real cards make: Norwegian read as a boolean, and tabs as indentation.
    return "".join(f"{line}\n" for line in front).replace("- no\n", '- "no"\n').replace("\t", "  ")


def _require_simple(events: Any) -> None:
    """Raise ValueError for YAML that is deeper or denser than any card, or whose aliases could multiply."""
    depth = aliases = 0
    merges = False
    for count, event in enumerate(events):
        kind = type(event).__name__
        if kind in {"MappingStartEvent", "SequenceStartEvent"}:
            depth += 1
        elif kind in {"MappingEndEvent", "SequenceEndEvent"}:
            depth -= 1
        elif kind == "AliasEvent":
            aliases += 1
        elif kind == "ScalarEvent":
            merges = merges or event.value == MERGE
            if len(event.value) > MAX_NUMBER and NUMBER.fullmatch(event.value):
                raise ValueError(f"a number of {len(event.value):,} characters")
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if count > MAX_EVENTS:
            raise ValueError(f"more than {MAX_EVENTS:,} values")
        if aliases > (MAX_MERGED_ALIASES if merges else MAX_ALIASES):
            raise ValueError(f"{aliases} aliases")
