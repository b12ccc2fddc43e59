"""What the journal, and then the manifest, says of a weight that a method rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quantkit.filling.work import Facts

EXPERT_TOKENS = "expert_tokens"
ENCODER = "rtn"  # the method that rounds as encoders do

if TYPE_CHECKING:
    from quantkit.methods.base import Report


def facts_of(method: str, reports: Sequence[Report]) -> Facts:
    """One report as it is; of several experts the sums of their losses, and the fewest tokens that one of them saw.

    What the target's own encoder rounded says so, whatever the method of the others.
    """
    facts: Facts = {
        "method": ENCODER if all(report.encoded for report in reports) else method,
        "tokens": min(report.tokens or 0 for report in reports),
        "statistics": "+".join(sorted({str(report.seen) for report in reports})),
        "dead": max(report.dead for report in reports),
    }
    damping = [report.damping for report in reports if report.damping is not None]
    losses = [report.loss for report in reports if report.loss is not None]
    rounding = [report.rounding_loss for report in reports if report.rounding_loss is not None]
    for key, value in (("loss", losses), ("rounding_loss", rounding)):
        if len(value) == len(reports):
            facts[key] = sum(value)
    if any(report.fed for report in reports):
        facts["rows_fed"] = True
    if damping:
        facts["damping"] = max(damping)
    if len(reports) > 1:
        facts[EXPERT_TOKENS] = " ".join(str(report.tokens or 0) for report in reports)
    return facts


def expert_tokens(facts: Mapping[str, object]) -> tuple[int, ...]:
    """How many tokens each expert of a stack saw, from what the journal says of it; none where it is no stack."""
    return tuple(map(int, str(facts.get(EXPERT_TOKENS, "")).split()))
