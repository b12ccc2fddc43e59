"""Suggestions for names that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LENGTH = 100  # of a name that is worth a suggestion: comparing takes the square of it
MAX_KNOWN = 2000


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean "q6_k"?' when one of `known` is close to `name`, else the empty string."""
    if len(name) > MAX_LENGTH:
        return ""
    near = get_close_matches(name, [each for each in known if len(each) <= MAX_LENGTH][:MAX_KNOWN], 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` of `known` that are nearest to `name`, the nearest first, however far they are."""
    return get_close_matches(name[:MAX_LENGTH], sorted(set(known)), count, 0.0)
