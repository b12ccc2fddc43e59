"""The plan of a recipe, by the planner of its container."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantkit.families.model import Model
from quantkit.plan.base import STANDARD, Plan, PlanOptions
from quantkit.recipes.recipe import Recipe
from quantkit.source import Checkpoint

if TYPE_CHECKING:
    from quantkit.formats.gguf.imatrix import Imatrix


def make_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    options: PlanOptions = STANDARD,
    *,
    model: Callable[[], Model],
    imatrix: Callable[[], Imatrix | None] = lambda: None,
    inputs: str = "",
) -> Plan:
    """What a recipe makes of a checkpoint.

    `model` is the checkpoint as GGUF files name it and `imatrix` its importance weights: both are asked for only where
    a GGUF file is planned, and may raise what keeps it from being planned. `inputs` is the digest of the text or the
    statistics of a run, which recipes that need none ignore.
    """
    used = inputs if recipe.needs_calibration else ""
    if recipe.mixture is not None:
        from quantkit.plan.gguf import plan_gguf  # each planner knows much that the other need not

        return plan_gguf(model(), checkpoint, recipe, options, imatrix=imatrix(), inputs=used)
    from quantkit.plan.checkpoint import plan_checkpoint

    return plan_checkpoint(checkpoint, recipe, options, inputs=used)
