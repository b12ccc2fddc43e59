"""The source of a request, as its recipes want to see it."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import UsageError
from quantkit.events import Sink
from quantkit.pipeline.request import Request
from quantkit.recipes.recipe import Recipe
from quantkit.source import Checkpoint, open_source, turned_back


def open_wanted(request: Request, recipes: Sequence[Recipe], emit: Sink, *, headers: bool = False) -> Checkpoint:
    """Open the source: a model, with adapters merged into it, for recipes of adapters an adapter, beside its target a
    draft; for checkpoints a GGUF file is turned back into one. With `headers` weights of a repository of the Hub stay
    there.

    Raises UsageError for recipes and options that do not go together, and what opening and `require_base` raise.
    """
    of_adapters = [recipe.name for recipe in recipes if recipe.mixture is not None and recipe.mixture.adapter]
    if of_adapters and len(of_adapters) < len(recipes):
        what = f"{', '.join(of_adapters)} is made of an adapter, the other recipes of a model"
        raise UsageError(what, key="recipes", hint="use a command for each")
    if of_adapters and request.adapters:
        what = f"{of_adapters[0]} writes the adapter that is the source, --adapter merges one into a model"
        raise UsageError(what, key="adapters", hint="leave --adapter out, or choose a recipe for models")
    if of_adapters:
        from quantkit.source.adapter_model import open_adapter_model  # few sources are of these two kinds

        return open_adapter_model(request.source, request.base, offline=request.offline, emit=emit)
    if request.base is not None:
        from quantkit.source.draft import open_draft

        return open_draft(
            request.source, request.base, offline=request.offline, emit=emit, adapters=request.adapters, headers=headers
        )
    found = open_source(request.source, offline=request.offline, emit=emit, adapters=request.adapters, headers=headers)
    if request.adapters:
        from quantkit.source.adapter_base import require_base

        require_base(found, emit, allow_other=request.allow_other_base)
    if all(recipe.mixture is None for recipe in recipes):
        return turned_back(found, emit)
    return found
