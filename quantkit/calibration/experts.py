"""Experts that the data reached: which saw too few tokens, and the gate for those who want most of them reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantkit.errors import GateError
from quantkit.units import counted
from quantkit.untrusted import listed

RARE_EXPERTS = "QK-CAL-004"
RARE_SHARE = 0.1  # of an even share; GPTQModel rounds experts below 0.5 % of all tokens: 0.08 of it for 8 of 128
SHOWN_EXPERTS = 20


def rare_experts(tokens: Sequence[int]) -> list[int]:
    """The numbers of the experts that saw less than RARE_SHARE of an even share, or none."""
    even = sum(tokens) / len(tokens)
    return [number for number, count in enumerate(tokens) if count < RARE_SHARE * even or not count]


def named_rare(experts: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The names of rare experts, of the tokens that the experts of each module saw."""
    return tuple(f"{module}.{n}" for module, tokens in experts.items() for n in rare_experts(tokens))


def reached_percent(rare: int, count: int) -> float:
    """The percentage of experts that are not rare, to two places; 100 for a model without experts."""
    return round(100 * (1 - rare / count), 2) if count else 100.0


def require_reached(rare: Sequence[str], count: int, percent: float | None, data: str) -> None:
    """Raise GateError, naming experts, when fewer than `percent` of `count` are not `rare`.

    `data` is what to give more of.
    """
    reached = reached_percent(len(rare), count)
    if percent is None or reached >= percent:
        return
    what = f"{reached:.1f} % of {counted(count, 'expert')} saw enough tokens, {percent:g} % were asked for"
    hint = f"give more or more varied {data} or --samples, or a lower --require-coverage"
    raise GateError(f"{what}; too few: {listed(list(rare), SHOWN_EXPERTS)}", key="require_coverage", hint=hint)
