"""Suggestions for names that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean "q6_k"?' when one of `known` is close to `name`, else the empty string."""
    near = get_close_matches(name, list(known), 1)
    return f'; did you mean "{near[0]}"?' if near else ""
