"""A target spent on a plan: which tensor gets which type, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from quantkit.errors import RecipeError
from quantkit.formats.gguf.types import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, padded
from quantkit.plan.base import Plan, Unit
from quantkit.qtypes import base
from quantkit.recipes.recipe import Allotment
from quantkit.records import record
from quantkit.tuning.allocate import Chosen, Fronts, Option, allocate, cheapest, least_bytes, total_bytes, total_loss
from quantkit.tuning.candidates import LEAST_HEAD_BITS, candidates, is_head, nbytes_of
from quantkit.tuning.record import Sensitivity
from quantkit.tuning.target import Target, above
from quantkit.untrusted import shown

ATTEMPTS = 8  # to come below the target where the number of files depends on the types
SHOWN = 3  # names in a warning


@record
class Spent:
    """What a target was spent on. `chosen` are the types of the tensors that were free, `preset` those of the recipe.

    `fixed` are the types of tensors that an option has fixed, and `fixed_kld` what they cost, without those `unpriced`,
    whose type was not measured.
    """

    chosen: Chosen
    preset: Mapping[str, Option]
    fronts: Fronts
    fixed: Mapping[str, str]
    fixed_kld: float
    unpriced: tuple[Unit, ...] = ()
    low_head: str | None = None

    @property
    def kld(self) -> float:
        return total_loss(self.chosen) + self.fixed_kld

    @property
    def preset_kld(self) -> float:
        return total_loss(self.preset) + self.fixed_kld


def require_reachable(plan: Plan, target: Target) -> None:
    """Raise RecipeError for a target that no choice of types reaches, before anything is measured: `plan` is that of
    the recipe's own types."""
    free = {unit.name: unit for unit in plan.units if unit.free}
    types = {name: found for name, found in candidates(plan).items() if name in free and len(found) > 1}
    if not types:
        what = f"{target}: every type is fixed, there is nothing to choose"
        raise RecipeError(what, hint=f"leave {target.option} out, or some of --keep", key=target.option)
    budget = target.nbytes(_weights(plan))
    if budget is None:
        return
    pad = _alignment(plan)
    sizes = {name: [padded(nbytes_of(free[name], one), pad) for one in found] for name, found in types.items()}
    fixed = plan.nbytes - sum(padded(free[name].nbytes, pad) for name in sizes)
    least, most = (fixed + sum(map(pick, sizes.values())) for pick in (min, max))
    if budget < least:
        what = f"the smallest file of these types takes {least:,} bytes ({_bits(plan, least):.3f} bits per weight)"
        hint = f"--target-size {least}, a recipe of smaller types such as iq2_xxs, or a smaller model"
        raise RecipeError(f"{target} is {budget:,} bytes: {what}", hint=hint, key=target.option)
    if budget > most:
        what = f"the largest file of these types takes {most:,} bytes ({_bits(plan, most):.3f} bits per weight)"
        hint = f"--target-size {most}, or --to bf16 for the weights as they are"
        raise RecipeError(f"{target} is {budget:,} bytes: {what}", hint=hint, key=target.option)


def spend(plan: Plan, known: Sensitivity, target: Target, again: Callable[[Allotment], Plan]) -> Plan:
    """The plan with the types that lose least within the target. `plan` is that of the recipe's own types, `again`
    plans with others. Raises RecipeError for a target that cannot be reached."""
    require_reachable(plan, target)
    start = _fronts(plan, known)
    if not start.fronts:
        what = f"{target}: the file of --sensitivity knows none of the tensors that are free"
        raise RecipeError(what, hint="measure again with quantkit sensitivity", key="sensitivity")
    fixed = plan.nbytes - total_bytes(start.preset)
    budget = target.nbytes(_weights(plan))
    if budget is None:
        return again(_allotment(_least(plan, target, start), known, target))
    room = budget - fixed
    for _ in range(ATTEMPTS):
        spent = _within(plan, room, start)
        if spent is None:
            break
        made = again(_allotment(spent, known, target))
        if made.nbytes <= budget:
            return made
        room -= made.nbytes - budget
    what = f"{target} is {budget:,} bytes: no choice of types gives files so small"
    raise RecipeError(what, hint=f"--target-size {fixed + least_bytes(start.fronts)}", key=target.option)


def _fronts(plan: Plan, known: Sensitivity) -> Spent:
    """The types of each free tensor whose costs are known, padded bytes; and what tensors cost that are not free.

    Raises RecipeError where the recipe gives free tensors types that were not measured.
    """
    pad, fronts, fixed, unpriced = _alignment(plan), {}, {}, []
    legal = candidates(plan)
    for unit in plan.units:
        cost = known.by_name.get(unit.name)
        if cost is None or cost.shape != unit.tensor.shape or unit.name not in legal:
            continue
        if unit.word not in cost.by_type:
            if unit.free:
                raise _unmeasured(unit, known)
            unpriced.append(unit)
            continue
        if unit.free:
            fronts[unit.name] = [
                Option(name, padded(nbytes_of(unit, name), pad), cost.by_type[name].kld)
                for name in legal[unit.name]
                if name in cost.by_type
            ]
        else:
            fixed[unit.name] = unit.word
    words = {unit.name: unit.word for unit in plan.units}
    preset = {name: next(o for o in options if o.type == words[name]) for name, options in fronts.items()}
    kld = float(sum(known.by_name[name].by_type[word].kld for name, word in fixed.items()))
    return Spent({}, preset, fronts, fixed, kld, tuple(unpriced))


def _unmeasured(unit: Unit, known: Sensitivity) -> RecipeError:
    recipe = shown(known.recipe)
    what = f"the file of --sensitivity was measured for {recipe}, and not what {unit.word} costs {unit.name}"
    hint = f"--to {recipe}; or quantkit sensitivity SRC --to RECIPE --calib TEXT --out S.json for this recipe"
    return RecipeError(what, hint=hint, key="sensitivity")


def _within(plan: Plan, room: int, spent: Spent) -> Spent | None:
    """The choice with the least loss that takes at most `room` bytes; the recipe's own where that loses no more."""
    head = next((unit for unit in plan.units if unit.name in spent.fronts and is_head(unit, plan)), None)
    chosen = allocate(_with_high_head(spent.fronts, head), room)
    low = None
    if chosen is None:
        chosen = allocate(spent.fronts, room)
        low = head.name if head else None
    if chosen is None:
        return None
    if total_bytes(spent.preset) <= room and total_loss(spent.preset) <= total_loss(chosen):
        chosen, low = dict(spent.preset), None
    return replace(spent, chosen=chosen, low_head=low)


def _least(plan: Plan, target: Target, spent: Spent) -> Spent:
    """The smallest choice that loses no more than the target."""
    head = next((unit for unit in plan.units if unit.name in spent.fronts and is_head(unit, plan)), None)
    chosen = cheapest(_with_high_head(spent.fronts, head), target.value - spent.fixed_kld)
    if chosen is None:
        best = sum(min(o.loss for o in options) for options in spent.fronts.values()) + spent.fixed_kld
        what = f"even the largest types are predicted to lose {best:.2g} nats per token"
        raise RecipeError(f"{target}: {what}", hint=f"--max-kld {above(best)}, or --to bf16", key=target.option)
    return replace(spent, chosen=chosen)


def _with_high_head(fronts: Fronts, head: Unit | None) -> Fronts:
    """The types, those of the head without what is smaller than five bits, unless the recipe itself wants it."""
    if head is None:
        return fronts
    high = [o for o in fronts[head.name] if base.get(o.type).bits_per_weight >= LEAST_HEAD_BITS or o.type == head.word]
    return {**fronts, head.name: high}


def _allotment(spent: Spent, known: Sensitivity, target: Target) -> Allotment:
    total = spent.kld or 1.0
    types, tensors = {}, []
    for name, option in spent.chosen.items():
        smaller, larger = _neighbours(spent.fronts[name], option)
        words = [f"{100 * option.loss / total:.1f} % of the predicted KL {spent.kld:.3g}"]
        if smaller:
            words.append(f"{smaller.type} would add {smaller.loss - option.loss:.2g}")
        if larger:
            words.append(f"{larger.type} save {option.loss - larger.loss:.2g}")
        types[name] = (option.type, f"{target}: {', '.join(words)}")
        tensors.append(
            {
                "name": name,
                **_option_json(option),
                "share": round(option.loss / total, 6),
                "smaller": smaller and _option_json(smaller),
                "larger": larger and _option_json(larger),
            }
        )
    facts: dict[str, Any] = {
        "target": {"option": target.option, "value": target.text},
        **known.predicted({**spent.fixed, **{name: one.type for name, one in spent.chosen.items()}}, spent.kld),
        "tensor_bytes": total_bytes(spent.chosen),
        "preset": {"tensor_bytes": total_bytes(spent.preset), "predicted_kld": spent.preset_kld},
        "sensitivity": known.digest,
        "tensors": tensors,
    }
    return Allotment(types, facts, _warnings(spent))


def _warnings(spent: Spent) -> tuple[tuple[str, str], ...]:
    """That the head got less than it should have, where the budget leaves it no more; and what no cost is known of."""
    found = []
    if spent.low_head is not None:
        qtype = spent.chosen[spent.low_head].type
        words = f"{spent.low_head} is {qtype}: the target leaves no room for five bits in the head"
        found.append(("low-head", words))
    if spent.unpriced:
        names = ", ".join(f"{unit.name} as {unit.word}" for unit in spent.unpriced[:SHOWN])
        more = len(spent.unpriced) - SHOWN
        words = f"{names}{f' and {more} more' if more > 0 else ''}: not measured, the predicted loss leaves it out"
        found.append(("unpriced", words))
    return tuple(found)


def _neighbours(options: Sequence[Option], chosen: Option) -> tuple[Option | None, Option | None]:
    """The next smaller type, and the next larger one that loses less."""
    smaller = [option for option in options if option.nbytes < chosen.nbytes]
    larger = [option for option in options if option.nbytes > chosen.nbytes and option.loss < chosen.loss]
    return (
        max(smaller, key=lambda option: (option.nbytes, -option.loss), default=None),
        min(larger, key=lambda option: (option.nbytes, option.loss), default=None),
    )


def _option_json(option: Option) -> dict[str, Any]:
    return {"type": option.type, "bytes": option.nbytes, "kld": option.loss}


def _weights(plan: Plan) -> int:
    return sum(prod(unit.tensor.shape) for unit in plan.units)


def _bits(plan: Plan, nbytes: int) -> float:
    return 8 * nbytes / max(_weights(plan), 1)


def _alignment(plan: Plan) -> int:
    found = next((entry.value for entry in plan.metadata if entry.key == ALIGNMENT_KEY), DEFAULT_ALIGNMENT)
    assert isinstance(found, int)
    return found
