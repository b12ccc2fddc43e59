"""Did the text reach the layers? From what every rounded layer noted down: its tokens, and what they made of it."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.calibration.experts import RARE_EXPERTS, named_rare, require_reached
from quantkit.events import Warned
from quantkit.families.roles import Role
from quantkit.filling.reports import expert_tokens
from quantkit.filling.work import Work
from quantkit.methods import needs_hessian
from quantkit.plan.base import Unit
from quantkit.units import counted
from quantkit.untrusted import listed


def check_ranks(work: Work) -> None:
    """Warn of layers whose Hessian is singular, for it has fewer tokens than columns."""
    from quantkit.calibration.coverage import RANK

    if work.plan.method is None or not needs_hessian(work.plan.method.name):
        return
    short = [u.tensor for u in work.plan.rounded if _has_hessian(work, u) and _tokens(work, u) < u.tensor.cols]
    if short:
        widest = max(short, key=lambda tensor: tensor.cols)
        what = (
            f"{counted(len(short), 'layer', 'has', 'have')} fewer tokens than columns, so their Hessians are singular"
        )
        work.emit(Warned(RANK, f"{what}: {widest.name} has {widest.cols:,} columns"))


def _facts(work: Work, unit: Unit) -> Mapping[str, object]:
    """What the journal says of a weight; nothing of one that is still to be filled, since inputs say nothing of it."""
    record = work.job.records.get(unit.outputs[0].name)
    return {} if record is None else record.extra


def _tokens(work: Work, unit: Unit) -> int:
    return int(str(_facts(work, unit).get("tokens", 0)))


def _has_hessian(work: Work, unit: Unit) -> bool:
    """Whether a weight was rounded by a Hessian of its own: experts share theirs."""
    facts = _facts(work, unit)
    return unit.tensor.expert is None and "tokens" in facts and not expert_tokens(facts)


def check_experts(work: Work, percent: float | None) -> None:
    """Warn of experts that few tokens reached; they were rounded with statistics shared by their layer.

    Raises GateError when fewer than `percent` of all experts saw enough. The journal is kept.
    """
    tokens: dict[str, list[int]] = {}
    for unit in work.plan.rounded:
        expert = unit.tensor.expert
        if expert is not None and unit.tensor.role is Role.FFN_GATE:
            tokens.setdefault(unit.name.rpartition(f".{expert}.")[0], []).append(_tokens(work, unit))
        elif unit.tensor.role in (Role.FFN_GATE, Role.FFN_GATE_UP):
            seen = expert_tokens(_facts(work, unit))
            tokens |= {unit.name: list(seen)} if seen else {}
    count = sum(map(len, tokens.values()))
    rare = named_rare(tokens)
    if rare:
        said = f"{len(rare)} of {counted(count, 'expert')} saw few tokens and share the statistics of their layer"
        work.emit(Warned(RARE_EXPERTS, f"{said}: {listed(list(rare), 3)}"))
    require_reached(rare, count, percent, "--calib text")
