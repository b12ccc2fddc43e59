"""What a continuation of a prompt is expected to hold, as a set of prompts says it, and whether it does.

    {"contains": "Paris"}  {"contains": ["a", "b"]}      all of these texts
    {"regex": "\\\\bParis\\\\b"}                            found, upper and lower case told apart; RE2, in bounded time
    {"json": true}                                       begins with a JSON object or array
    {"json_schema": {...}}                               ... that fits this schema (shapes.py)
    {"copy": "text"}                                     begins with exactly this text
    {"number": 42}                                       the last number in its first line
    {"choice": ["red", "blue"], "answer": "blue"}        of these continuations the answer is the most likely

White space around a continuation does not count, and neither does a fence of Markdown (three backticks) around it.
Whatever follows a JSON value or a copy does not count either: models without a token that ends texts write on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from quantkit.errors import did_you_mean
from quantkit.evaluation.shapes import ShapeError, fits, require_schema
from quantkit.patterns import PatternError, compile_search
from quantkit.records import record
from quantkit.untrusted import shown

NUMBER = re.compile(r"[-\u2212]?\d{1,30}(?:,\d{3})*(?:\.\d{1,30})?")
FENCE = re.compile(r"\A```[^\n`]{0,40}\n?")
ANSWER = "answer"
MOST_CHOICES = 64


class ExpectationError(ValueError):
    """An expectation that says nothing that could be checked."""


@record
class Choice:
    """Continuations, and which of them is the right one."""

    options: tuple[str, ...]
    answer: int


@record
class Expectation:
    """One thing that is expected of a prompt: its kind, whether a continuation has it, or the choice that it is."""

    kind: str
    holds: Callable[[str], bool] | None = None
    choice: Choice | None = None


def parse_expectations(given: Any) -> tuple[Expectation, ...]:
    """The expectations of a prompt: an object of kinds. Raises ExpectationError naming what is wrong."""
    if not isinstance(given, Mapping) or not given:
        raise ExpectationError('it is no object such as {"contains": "Paris"}')
    found = []
    for kind, value in given.items():
        if kind == ANSWER and "choice" in given:
            continue
        if kind not in KINDS:
            known = f"kinds: {', '.join(KINDS)}"
            raise ExpectationError(f'unknown kind "{shown(str(kind), 40)}"{did_you_mean(str(kind), KINDS)}; {known}')
        found.append(KINDS[kind](value, given))
    return tuple(found)


def first_json(text: str) -> tuple[bool, Any]:
    """Whether a continuation begins with a whole JSON object or array, and that."""
    bare = _bare(text)
    if bare[:1] not in ("{", "["):
        return False, None
    try:
        value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(bare)
    except (ValueError, RecursionError):
        return False, None
    return True, value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _bare(text: str) -> str:
    text = text.strip()
    opened = FENCE.match(text)
    return text[opened.end() :].removesuffix("```").strip() if opened else text


def answered_number(text: str) -> float | None:
    """The last number in the first line that is not empty."""
    lines = _bare(text).splitlines()
    found = NUMBER.findall(lines[0]) if lines else []
    return float(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def _contains(value: Any, given: Mapping[str, Any]) -> Expectation:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
        raise ExpectationError('"contains" is a text, or a list of texts')
    return Expectation("contains", lambda text: all(each in text for each in texts))


def _regex(value: Any, given: Mapping[str, Any]) -> Expectation:
    if not isinstance(value, str) or not value:
        raise ExpectationError('"regex" is a regular expression as text')
    try:
        return Expectation("regex", compile_search(value, cased=True))
    except PatternError as error:
        raise ExpectationError(f'"regex": {error}') from error


def _json(value: Any, given: Mapping[str, Any]) -> Expectation:
    if value is not True:
        raise ExpectationError('"json" is true; "json_schema" takes a schema')
    return Expectation("json", lambda text: first_json(text)[0])


def _json_schema(value: Any, given: Mapping[str, Any]) -> Expectation:
    try:
        require_schema(value)
    except ShapeError as error:
        raise ExpectationError(f'"json_schema" is no schema that is known here: {error}') from error

    def holds(text: str) -> bool:
        parses, found = first_json(text)
        return parses and fits(found, value)

    return Expectation("json_schema", holds)


def _copy(value: Any, given: Mapping[str, Any]) -> Expectation:
    if not isinstance(value, str) or not value.strip():
        raise ExpectationError('"copy" is the text that is copied')
    return Expectation("copy", lambda text: _bare(text).startswith(value.strip()))


def _number(value: Any, given: Mapping[str, Any]) -> Expectation:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ExpectationError('"number" is a number')
    return Expectation("number", lambda text: answered_number(text) == value)


def _choice(value: Any, given: Mapping[str, Any]) -> Expectation:
    texts = value if isinstance(value, list) else []
    if not 2 <= len(texts) <= MOST_CHOICES or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ExpectationError(f'"choice" is a list of 2 to {MOST_CHOICES} texts')
    if len(set(texts)) < len(texts):
        raise ExpectationError('"choice" has a text twice')
    answer = given.get(ANSWER)
    if answer not in texts:
        raise ExpectationError('"choice" needs "answer", one of its texts')
    return Expectation("choice", choice=Choice(tuple(texts), texts.index(answer)))


KINDS: Mapping[str, Callable[[Any, Mapping[str, Any]], Expectation]] = {
    "contains": _contains,
    "regex": _regex,
    "json": _json,
    "json_schema": _json_schema,
    "copy": _copy,
    "number": _number,
    "choice": _choice,
}
