"""Which modules a list of targets means: exact names, class names, and "re:" patterns that a file brings along.

A pattern of a file must not decide how long we run, and `re` backtracks. These are matched by following all ways
through a pattern at once (Thompson, CACM 11(6), 1968), and what still takes too many steps is refused. What users of
compressed-tensors write is understood as `re.match` does: groups, classes, repetition, alternatives, anchors and
lookahead; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from quantkit.errors import UnsupportedError
from quantkit.untrusted import shown

REGEX = "re:"
LINEAR = "Linear"
MAX_PATTERN = 1000
MAX_NAME = 1000
MAX_COUNT = 100  # of one repetition
MAX_DEPTH = 20
MAX_STEPS = 20_000  # to match one name; a pattern such as ".*mlp.*" takes one per character and repetition
ESCAPED: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
    "D": lambda c: not c.isdecimal(),
    "W": lambda c: not (c.isalnum() or c == "_"),
    "S": lambda c: not c.isspace(),
}


@dataclass
class _Name:
    """A name being matched. Sets of places are integers: bit i is the place before character i."""

    text: str
    pattern: str
    accepted: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    def count(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _refused(self.pattern, "takes too long to match")


Step = Callable[[_Name, int], int]  # places before, places after


def matches(target: str, module: str) -> bool:
    """Whether a target names this module: its name itself, or a pattern that fits from its beginning on.

    Raises UnsupportedError for a pattern that is not understood.
    """
    if not target.startswith(REGEX):
        return target == module
    return len(module) <= MAX_NAME and steps_to_match(target.removeprefix(REGEX), module)[0]


def steps_to_match(pattern: str, module: str) -> tuple[bool, int]:
    """Whether a pattern fits a name from its beginning on, and how many steps that took. Raises UnsupportedError."""
    name = _Name(module, pattern)
    return _compiled(pattern)(name, 1) != 0, name.steps


def understood(pattern: str) -> None:
    """Raise UnsupportedError for a pattern that is not understood."""
    _compiled(pattern)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Step:
    if len(pattern) > MAX_PATTERN:
        raise _refused(pattern, f"has more than {MAX_PATTERN} characters")
    step, end = _alternatives(pattern, 0, 0)
    if end < len(pattern):
        raise _refused(pattern, f"has an unexpected {pattern[end]!r}")
    return step


def _refused(pattern: str, why: str) -> UnsupportedError:
    what = f'the target "{REGEX}{shown(pattern)}" {why}'
    return UnsupportedError(what, key="config_groups", hint="name the modules in simpler patterns")


def _alternatives(pattern: str, at: int, depth: int) -> tuple[Step, int]:
    if depth > MAX_DEPTH:
        raise _refused(pattern, "has groups nested too deeply")
    choices: list[Step] = []
    while True:
        step, at = _sequence(pattern, at, depth)
        choices.append(step)
        if pattern[at : at + 1] != "|":
            return _any_of(choices), at
        at += 1


def _sequence(pattern: str, at: int, depth: int) -> tuple[Step, int]:
    steps: list[Step] = []
    while at < len(pattern) and pattern[at] not in "|)":
        step, at = _atom(pattern, at, depth)
        step, at = _repeated(pattern, at, step)
        steps.append(step)

    def run(name: _Name, places: int) -> int:
        for step in steps:
            places = step(name, places)
        return places

    return run, at


def _any_of(choices: Sequence[Step]) -> Step:
    def run(name: _Name, places: int) -> int:
        found = 0
        for step in choices:
            found |= step(name, places)
        return found

    return choices[0] if len(choices) == 1 else run


def _atom(pattern: str, at: int, depth: int) -> tuple[Step, int]:
    """A character, class, anchor or group, and where it ends."""
    letter = pattern[at]
    if letter == "(":
        return _group(pattern, at + 1, depth)
    if letter == "^":
        return (lambda name, places: places & 1), at + 1
    if letter == "$":
        return (lambda name, places: places & 1 << len(name.text)), at + 1
    if letter in "*+?{":
        raise _refused(pattern, "repeats nothing")
    if letter == "[":
        accepts, at = _class(pattern, at + 1)
    elif letter == "\\":
        accepts, at = _escape(pattern, at + 1)
    else:
        accepts, at = (lambda c: c != "\n") if letter == "." else letter.__eq__, at + 1
    return _character(accepts), at


def _group(pattern: str, at: int, depth: int) -> tuple[Step, int]:
    ahead = pattern[at : at + 2] if pattern[at : at + 2] in ("?=", "?!") else ""
    if ahead or pattern.startswith("?:", at):
        at += 2
    elif pattern.startswith("?", at):
        raise _refused(pattern, "has a group of an unknown kind")
    inner, at = _alternatives(pattern, at, depth + 1)
    if pattern[at : at + 1] != ")":
        raise _refused(pattern, "has a group that does not end")
    if not ahead:
        return inner, at + 1

    def look(name: _Name, places: int) -> int:
        each = (1 << place for place in range(len(name.text) + 1) if places >> place & 1)
        return sum(place for place in each if (inner(name, place) != 0) == (ahead == "?="))

    return look, at + 1


def _escape(pattern: str, at: int) -> tuple[Callable[[str], bool], int]:
    letter = pattern[at : at + 1]
    if letter in ESCAPED:
        return ESCAPED[letter], at + 1
    if not letter or letter.isalnum():
        raise _refused(pattern, f"has an unknown escape {letter!r}")
    return letter.__eq__, at + 1


def _class(pattern: str, at: int) -> tuple[Callable[[str], bool], int]:
    """The inside of a class such as `[^a-c_\\d]`."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    tests: list[Callable[[str], bool]] = []
    begin = at
    while pattern[at : at + 1] != "]" or at == begin:
        if at >= len(pattern):
            raise _refused(pattern, "has a class that does not end")
        if pattern[at] == "\\":
            test, at = _escape(pattern, at + 1)
            tests.append(test)
        elif pattern[at + 1 : at + 2] == "-" and pattern[at + 2 : at + 3] not in ("", "]", "\\"):
            tests.append(_between(pattern[at], pattern[at + 2]))
            at += 3
        else:
            tests.append(pattern[at].__eq__)
            at += 1
    return (lambda c: any(test(c) for test in tests) != negated), at + 1


def _between(low: str, high: str) -> Callable[[str], bool]:
    return lambda c: low <= c <= high


def _character(accepts: Callable[[str], bool]) -> Step:
    def run(name: _Name, places: int) -> int:
        name.count()
        fits = name.accepted.get(id(run))  # the places before characters that fit, found once for each name
        if fits is None:
            fits = sum(1 << place for place, letter in enumerate(name.text) if accepts(letter))
            name.accepted[id(run)] = fits
        return (places & fits) << 1

    return run


def _repeated(pattern: str, at: int, step: Step) -> tuple[Step, int]:
    """`step` with the repetition that follows it, if any does."""
    letter = pattern[at : at + 1]
    if letter == "{":
        low, high, at = _counts(pattern, at + 1)
    elif letter and letter in "*+?":
        low, high, at = int(letter == "+"), (1 if letter == "?" else None), at + 1
    else:
        return step, at
    at += pattern[at : at + 1] == "?"  # a lazy repetition finds the same places
    if pattern[at : at + 1] and pattern[at] in "*+?{":
        raise _refused(pattern, "repeats a repetition")
    return _loop(step, low, high), at


def _counts(pattern: str, at: int) -> tuple[int, int | None, int]:
    end = pattern.find("}", at)
    low, comma, high = pattern[at:end].partition(",") if end >= 0 else ("", "", "")
    numbers = [n for n in (low, high) if n]
    if not numbers or not all(n.isascii() and n.isdigit() and len(n) < 4 and int(n) <= MAX_COUNT for n in numbers):
        raise _refused(pattern, f"has a repetition other than of 0 to {MAX_COUNT}")
    least = int(low or 0)
    most = least if not comma else int(high) if high else None
    if most is not None and most < least:
        raise _refused(pattern, "has a repetition of less than nothing")
    return least, most, end + 1


def _loop(step: Step, low: int, high: int | None) -> Step:
    def run(name: _Name, places: int) -> int:
        for _ in range(low):
            name.count()
            places = step(name, places)
        reached, new, left = places, places, high
        while new and (left is None or left > low):
            name.count()
            new = step(name, new) & ~reached
            reached |= new
            left = None if left is None else left - 1
        return reached

    return run
