"""What a plan of a checkpoint for servers has to say for itself: a code and a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quantkit.families.linears import Outline
from quantkit.plan.dtypes import WORDS, Dtype
from quantkit.recipes.servers import ServerRecipe
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed

if TYPE_CHECKING:
    from quantkit.plan.base import PlannedModule, ServerTensor

LOW_BITS = 3


def notes(
    recipe: ServerRecipe, found: Outline, modules: Sequence[PlannedModule], *, calibrated: bool
) -> Iterator[tuple[str, str]]:
    """What the recipe wants of its user, what stays as it is without being asked for, and what was changed."""
    if recipe.needs_calibration and not calibrated:
        yield "needs-calibration", f"{recipe.name} is made with --calib FILE: text like what the model will see"
    if found.unknown:
        many = f"{len(found.unknown)} matrices inside blocks are unknown to family {found.family} and stay as they are"
        yield "unknown-tensors", f"{many}: {listed(sorted(found.unknown), 3)}"
    changed = [f"{p.name} {p.wanted.traits.word} -> {p.layout.traits.word}" for p in modules if p.wanted is not None]
    if changed:
        yield "fallback", f"{len(changed)} of {len(modules)} layers take smaller groups: {listed(changed, 3)}"


def note_low_bits(modules: Sequence[PlannedModule]) -> Iterator[tuple[str, str]]:
    """A warning where rounded layers hold less than three bits for a weight, their scales included."""
    weights = sum(planned.module.rows * planned.module.cols for planned in modules)
    bits = 8 * sum(entry.nbytes for planned in modules for entry in planned.entries) / max(weights, 1)
    if bits < LOW_BITS:
        what = f"the rounded layers hold {bits:.2f} bits per weight, which loses visible quality"
        yield "low-bits", f"{what}: measure it with `quantkit verify OUT --against SRC --engine torch`"


def note_dtypes(
    said: Dtype, dtype: Dtype, sources: Mapping[str, TensorInfo], tensors: Sequence[ServerTensor], *, plain: bool
) -> Iterator[tuple[str, str]]:
    """What is stored in another type than the source has it; config.json said `said`, and now says `dtype`."""
    word = WORDS[dtype]
    if said != dtype and plain:
        yield "dtype", f"config.json says {word}, and no longer {WORDS[said]}"
    elif said != dtype:
        yield "dtype", f"loaders decode floats of four bits to {word}: config.json says so, and no longer {WORDS[said]}"
    changed = [
        t.name for t in tensors if t.module is None and t.name in sources and t.entry.dtype != sources[t.name].dtype
    ]
    if changed and not plain:
        what = f"{len(changed)} tensors that stay plain are stored as {word}, the type in config.json"
        yield "stored-dtype", f"{what}: {listed(changed, 3)}"
