"""Which experts of a mixture the text reached, from what every rounded layer noted down."""

from __future__ import annotations

from quantkit.errors import GateError
from quantkit.events import Warned
from quantkit.families.roles import Role
from quantkit.pipeline.server import ServerWork
from quantkit.untrusted import listed

SHOWN_EXPERTS = 8


def check_experts(work: ServerWork, percent: float | None) -> None:
    """Warn of experts that few tokens reached; they were rounded with statistics shared by their layer.

    Raises GateError when fewer than `percent` of all experts saw enough. The journal is kept.
    """
    from quantkit.calibration.coverage import RARE_EXPERTS, rare_experts

    tokens: dict[str, list[int]] = {}
    for planned in work.plan.modules:
        module = planned.module
        if module.expert is not None and module.role is Role.FFN_GATE:
            seen = work.job.records[planned.entries[0].name].extra.get("tokens", 0)
            tokens.setdefault(module.name.rpartition(f".{module.expert}.")[0], []).append(int(seen))
    count = sum(map(len, tokens.values()))
    rare = [f"{where}.{number}" for where, seen in tokens.items() for number in rare_experts(tuple(seen))]
    if not rare:
        return
    said = f"{len(rare)} of {count:,} experts saw few tokens and share the statistics of their layer"
    work.emit(Warned(RARE_EXPERTS, f"{said}: {listed(rare, 3)}"))
    reached = 100 * (1 - len(rare) / count)
    if percent is not None and reached < percent:
        what = f"{reached:.1f} % of {count:,} experts saw enough tokens, {percent:g} % were asked for"
        hint = "give more or more varied --calib text or --samples, or a lower --require-coverage"
        raise GateError(f"{what}; too few: {listed(rare, SHOWN_EXPERTS)}", key="require_coverage", hint=hint)
