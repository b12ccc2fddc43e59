"""Does the data reach what it is to calibrate? Numbers for the report, and warnings with stable codes.

QK-CAL-001, 002, 005 and 006 are those of `data_warnings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from quantkit.calibration.experts import RARE_EXPERTS, RARE_SHARE, named_rare, rare_experts, reached_percent
from quantkit.calibration.statistics.sums import Statistics, Sums
from quantkit.calibration.text.warnings import data_warnings
from quantkit.families.names import EXPERTS, expert_of
from quantkit.records import record
from quantkit.units import counted
from quantkit.untrusted import listed

UNSEEN_EXPERTS = "QK-CAL-003"
RANK = "QK-CAL-007"
DEAD_COLUMNS = "QK-CAL-008"


@record
class Coverage:
    """What the data reached. `experts` maps the experts of a block ("model.layers.0.mlp.experts") to the tokens that
    each saw; `shortest` is the smallest ratio of tokens to columns over all sites that saw any. `rare` names the
    experts that saw less than RARE_SHARE of an even share, those without any token among them."""

    samples: int
    tokens: int
    repeated: int
    experts: Mapping[str, tuple[int, ...]]
    rare: tuple[str, ...]
    shortest: float
    warnings: tuple[tuple[str, str], ...]

    @property
    def expert_percent(self) -> float:
        """The percentage of experts that are not rare."""
        return reached_percent(len(self.rare), sum(map(len, self.experts.values())))


def check_coverage(statistics: Statistics, *, context: int = 0, hessian: bool | None = None) -> Coverage:
    """Look at statistics and their data. `context` is the longest sequence the model takes, 0 where unknown.

    `hessian` says that there are products of columns, None that `statistics` has them if there are.
    """
    sums = {name: statistics.moments(name) for name in statistics.sites}
    experts = _experts(statistics, sums)
    records = tuple(statistics.data.values())
    seen = {name: one for name, one in sums.items() if one.tokens}
    return Coverage(
        samples=sum(len(record.ids) for record in records),
        tokens=sum(record.tokens for record in records),
        repeated=sum(record.repeated for record in records),
        experts=experts,
        rare=named_rare(experts),
        shortest=min((one.tokens / one.cols for one in seen.values()), default=0.0),
        warnings=(
            *(warning for record in records for warning in data_warnings(record, context=context)),
            *_expert_warnings(experts),
            *_rank_warnings(
                {n: one for n, one in seen.items() if (statistics.has_gram(n) if hessian is None else hessian)}
            ),
            *_dead_warnings(seen),
        ),
    )


def _experts(statistics: Statistics, sums: Mapping[str, Sums]) -> dict[str, tuple[int, ...]]:
    """Tokens of each expert: those of its first site."""
    found: dict[str, dict[int, int]] = {}
    for name in statistics.sites:
        module, _, rest = name.partition(EXPERTS)
        number = expert_of(name)
        if number is not None and not rest.endswith("down_proj.weight"):
            found.setdefault(f"{module}.experts", {})[number] = sums[name].tokens
    return {module: tuple(tokens[n] for n in sorted(tokens)) for module, tokens in found.items()}


def _expert_warnings(experts: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    unseen, rare = [], []
    for module, tokens in experts.items():
        unseen += [f"{module}.{n}" for n, count in enumerate(tokens) if count == 0]
        rare += [f"{module}.{n}" for n in rare_experts(tokens) if tokens[n]]
    if unseen:
        yield UNSEEN_EXPERTS, f"{counted(len(unseen), 'expert')} saw no token: {listed(unseen, 3)}"
    if rare:
        yield (
            RARE_EXPERTS,
            f"{counted(len(rare), 'expert')} saw less than {RARE_SHARE:.0%} of an even share: {listed(rare, 3)}",
        )


def _rank_warnings(sums: Mapping[str, Sums]) -> Iterator[tuple[str, str]]:
    """Sites whose products of columns cannot have full rank."""
    short = [name for name, one in sums.items() if one.tokens < one.cols]
    if short:
        worst = min(short, key=lambda name: sums[name].tokens / sums[name].cols)
        least = f"{worst} has {sums[worst].tokens:,} for {sums[worst].cols:,} columns"
        yield RANK, f"{len(short)} Hessians have fewer tokens than columns, so they are singular: {least}"


def _dead_warnings(sums: Mapping[str, Sums]) -> Iterator[tuple[str, str]]:
    """Columns that are always zero."""
    dead = {name: int(torch.count_nonzero(one.squares == 0)) for name, one in sums.items()}
    dead = {name: count for name, count in dead.items() if count}
    if dead:
        worst = max(dead, key=lambda name: dead[name])
        most = f"{dead[worst]:,} of {worst}"
        yield DEAD_COLUMNS, f"{sum(dead.values()):,} columns in {len(dead)} sites are zero for every token: {most}"
