"""Groups that do not divide a row: which size takes over, decided before any work.

576 inputs (SmolLM) are no multiple of 128, and neither are 8,640 (OpenLLaMA). A recipe names the sizes to try instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantkit.errors import RecipeError
from quantkit.families.model import ModelTensor
from quantkit.formats.containers.weights import Weights
from quantkit.recipes.recipe import Recipe
from quantkit.untrusted import listed


def fitting(
    recipe: Recipe, chosen: Mapping[ModelTensor, Weights | None], *, mixed: bool
) -> dict[ModelTensor, Weights | None]:
    """`chosen` with groups of a size that divides, where the recipe names one.

    Layers decide one by one, all experts of a block together, since engines run them as one layer. In a container
    that has one size for the whole checkpoint (not `mixed`) all layers decide together. Where no size fits, weights
    stay as they are: the container's error then says why. Raises RecipeError for a fallback that the recipe refuses.
    """
    sets: dict[tuple[object, ...], list[ModelTensor]] = {}
    for module, weights in chosen.items():
        if weights is not None:
            sets.setdefault((weights, _together(module) if mixed else ""), []).append(module)
    found = dict(chosen)
    for members in sets.values():
        weights = chosen[members[0]]
        assert weights is not None
        fitted = _fitted(weights, {module.cols for module in members})
        found |= dict.fromkeys(members, fitted)
    changed = [module.name for module, weights in found.items() if weights != chosen[module]]
    if changed and recipe.on_fallback == "error":
        what = f"{len(changed)} of {len(chosen)} layers have rows that groups of the recipe do not divide"
        hint = "accept smaller groups with --on-fallback report, or choose a recipe with a scale per row such as w8a16"
        raise RecipeError(f"{recipe.name}: {what}: {listed(changed, 3)}", hint=hint, key="group")
    return found


def _together(module: ModelTensor) -> str:
    """Layers with the same word have groups of the same size."""
    return module.name if module.expert is None else f"experts of layer {module.layer}"


def _fitted(weights: Weights, widths: set[int]) -> Weights:
    """The weights with the first size of groups that divides all of these rows; unchanged where none does."""
    if weights.type != "int" or weights.group == -1:
        return weights
    sizes = (weights.group, *weights.fallback)
    first = next((size for size in sizes if not any(width % size for width in widths)), weights.group)
    return replace(weights, group=first)
