"""Values that no place of a JSON file expects, and the places where they can be put."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

WRONG = (None, "x", -1, 0, [], {}, True, 1e308, [[]], ["x"], 1.5, 10**12)


def wrong(number: int) -> Any:
    """One of them: another for each of the neighbours of a place."""
    return WRONG[5 * number % len(WRONG)]


def places(part: Any, without: frozenset[str] = frozenset(), path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all values of an object but those of the keys `without`, and what is in them."""
    for key, value in part.items():
        if key in without:
            continue
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, without, (*path, key))


def changed(whole: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of an object with another value at a path."""
    inner = value if len(path) == 1 else changed(whole[path[0]], path[1:], value)
    return {**whole, path[0]: inner}
