"""The largest recipe whose artifact, with its cache, fits into a memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from quantkit.consumers import parse_consumers
from quantkit.errors import QuantkitError, ResourceError, UsageError
from quantkit.events import Sink, ignore
from quantkit.pipeline.consumers import require_loadable
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.request import Request
from quantkit.plan.base import Plan, PlanOptions
from quantkit.plan.make import make_plan
from quantkit.plan.sizes import ServingMemory, serving_memory
from quantkit.recipes.read import gguf_recipe_names, load_recipe, recipe_names
from quantkit.records import record
from quantkit.report.text import size
from quantkit.units import counted

BASE = "q8_0"  # a recipe that every model can have: what it is planned for describes the model once
LARGER_THAN_SOURCE = 1.05  # beyond it a recipe only writes the same weights with more bits; headers are small
OF_RECIPES = (
    "keep",
    "imatrix",
    "output_type",
    "embedding_type",
    "pure",
    "method",
    "calib",
    "target_size",
    "target_bpw",
    "max_kld",
    "sensitivity",
)


@record
class Candidate:
    """A recipe and what serving it takes."""

    recipe: str
    serving: ServingMemory

    def fits(self, budget_bytes: int) -> bool:
        return self.serving.nbytes <= budget_bytes

    def as_json(self, budget_bytes: int) -> dict[str, object]:
        return {"recipe": self.recipe, "bytes": self.serving.nbytes, "fits": self.fits(budget_bytes)}


def candidates(request: Request, context: int, kv_type: str = "f16", emit: Sink = ignore) -> tuple[Candidate, ...]:
    """Every shipped recipe that can be planned for the source, largest first, served with `context` tokens.

    GGUF recipes, or those of any container that the consumers of the request load. Recipes that need what is not
    there (importance weights, rows of certain lengths) are left out, and those that are larger than the source.
    Raises what opening the source raises.
    """
    given = [name for name in OF_RECIPES if getattr(request, name)]
    if given:
        hint = "give --to as well, or leave it out"
        raise UsageError(f"--{given[0].replace('_', '-')} is about a certain recipe", hint=hint, key=given[0])
    found = []
    for made, beside in _plans(request, emit):
        serving = serving_memory(made, context, kv_type)
        found.append(Candidate(made.recipe, replace(serving, weight_bytes=serving.weight_bytes + beside)))
    return tuple(sorted(found, key=lambda candidate: -candidate.serving.nbytes))


def largest_fitting(found: Sequence[Candidate], budget_bytes: int) -> Candidate:
    """The first that fits. Raises ResourceError, naming the smallest, where none does."""
    for candidate in found:
        if candidate.fits(budget_bytes):
            return candidate
    if not found:
        raise ResourceError("no recipe can be planned for this source", hint="see quantkit plan SRC --to q8_0")
    least = found[-1]
    raise ResourceError(
        f"nothing fits in {size(budget_bytes)}: the smallest, {least.recipe}, needs {size(least.serving.nbytes)}"
        f" with {counted(least.serving.context, 'token')} of {least.serving.kv_type} cache",
        hint="take a shorter --ctx, a smaller --kv such as q8_0, a device with more memory, or a smaller model",
    )


def _plans(request: Request, emit: Sink) -> Iterator[tuple[Plan, int]]:
    """Plans, each with the bytes of an encoder's file that is served with it."""
    consumers = parse_consumers(request.consumers)
    names = recipe_names() if consumers else gguf_recipe_names()
    prepared = prepare(replace(request, recipes=(BASE,), consumers=(), tp=1), None, emit, headers=True)
    assert prepared.model is not None
    model, options = prepared.model, PlanOptions(allow_requantize=request.allow_requantize)
    encoder = sum(made.nbytes for made in prepared.plans if made.is_encoder)
    try:
        for name in names:
            try:
                made = make_plan(prepared.checkpoint, load_recipe(name), options, model=lambda: model)
                require_loadable([made], consumers, request.tp)
            except QuantkitError:
                continue
            if made.nbytes <= LARGER_THAN_SOURCE * made.source_bytes:
                yield made, 0 if made.is_checkpoint else encoder
    finally:
        prepared.checkpoint.close()
