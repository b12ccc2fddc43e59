"""What a plan of a checkpoint for servers has to say for itself: a code and a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from quantkit.families.model import Model
from quantkit.families.names import EXPERTS
from quantkit.plan.base import Unit
from quantkit.plan.dtypes import WORDS, Dtype
from quantkit.recipes.recipe import Recipe
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed

LOW_BITS = 3


def notes(recipe: Recipe, found: Model, rounded: Sequence[Unit], *, calibrated: bool) -> Iterator[tuple[str, str]]:
    """What the recipe wants of its user, what stays as it is without being asked for, and what was changed."""
    if recipe.needs_calibration and not calibrated:
        what = "--calib default, or FILE with text like what the model will see"
        yield "needs-calibration", f"{recipe.name} is made with {what}"
    if found.unknown:
        many = f"{len(found.unknown)} matrices inside blocks are unknown to family {found.family} and stay as they are"
        yield "unknown-tensors", f"{many}: {listed(sorted(found.unknown), 3)}"
    stacks = [name for name in found.stay if f"{name}.".endswith(EXPERTS)]
    if stacks:
        what = "no loader takes single experts of such stacks: those of all layers stay floats"
        yield (
            "experts-stay",
            f"{what} ({listed(stacks, 1)}); in GGUF files they are rounded (--to q4_k_m)",
        )
    changed = [f"{unit.name} {unit.wanted} -> {unit.word}" for unit in rounded if unit.wanted]
    if changed:
        yield "fallback", f"{len(changed)} of {len(rounded)} layers take smaller groups: {listed(changed, 3)}"


def note_low_bits(rounded: Sequence[Unit]) -> Iterator[tuple[str, str]]:
    """A warning where rounded layers hold less than three bits for a weight, their scales included."""
    weights = sum(prod(unit.tensor.shape) for unit in rounded)
    bits = 8 * sum(unit.nbytes for unit in rounded) / max(weights, 1)
    if rounded and bits < LOW_BITS:
        what = f"the rounded layers hold {bits:.2f} bits per weight, which loses visible quality"
        yield "low-bits", f"{what}: measure it with `quantkit verify OUT --against SRC --engine torch`"


def note_dtypes(
    said: Dtype, dtype: Dtype, sources: Mapping[str, TensorInfo], units: Sequence[Unit], *, plain: bool
) -> Iterator[tuple[str, str]]:
    """What is stored in another type than the source has it; config.json said `said`, and now says `dtype`."""
    word = WORDS[dtype]
    if said != dtype and plain:
        yield "dtype", f"config.json says {word}, and no longer {WORDS[said]}"
    elif said != dtype:
        yield "dtype", f"loaders decode floats of four bits to {word}: config.json says so, and no longer {WORDS[said]}"
    changed = [unit.name for unit in units if unit.copy and unit.outputs[0].dtype != sources[unit.name].dtype]
    if changed and not plain:
        what = f"{len(changed)} tensors that stay plain are stored as {word}, the type in config.json"
        yield "stored-dtype", f"{what}: {listed(changed, 3)}"
