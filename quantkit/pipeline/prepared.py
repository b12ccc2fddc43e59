"""What a request has become before anything is done: an open source, and a plan for each recipe."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import QuantkitError, RecipeError
from quantkit.events import Sink, Warned
from quantkit.families.model import Model
from quantkit.filling.hashing import SourceHasher
from quantkit.plan.base import Plan
from quantkit.recipes.recipe import Recipe
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.source.identity import Origin

if TYPE_CHECKING:
    from quantkit.calibration.inputs import Inputs
    from quantkit.evaluation.source_run import SourceRun
    from quantkit.quality.reference import Reference


@record
class Prepared:
    """An open source and one plan per recipe that can be made of it, in the order asked for.

    `model` is None where no GGUF file is planned, `calibration` where no text was given. `inputs` are all files that
    are read: no output may be one of them. `refused` are recipes of several that cannot be planned, and why. `encoder`
    is what is written beside the model, with the last of the recipes and plans; None where nothing is. `hasher` hashes
    the source since it was opened, None where nobody asked for that.
    """

    checkpoint: Checkpoint
    model: Model | None
    recipes: tuple[Recipe, ...]
    plans: tuple[Plan, ...]
    calibration: Inputs | None = None
    require_coverage: float | None = None
    inputs: tuple[Path, ...] = ()
    refused: tuple[tuple[str, QuantkitError], ...] = ()
    encoder: Model | None = None
    hasher: SourceHasher | None = None

    def __repr__(self) -> str:
        return f"Prepared({self.checkpoint.name!r}, {', '.join(map(repr, self.plans))})"

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source, and an engine that runs it."""
        if "source_run" in self.__dict__:
            self.source_run.close()
        if self.hasher is not None:
            self.hasher.close()
        self.checkpoint.close()

    def hashing(self) -> SourceHasher:
        """The hashes of the source in the making, for a context; where that has not begun it begins now."""
        return self.hasher or SourceHasher(self.checkpoint.files())

    @property
    def several(self) -> bool:
        """Whether more than one recipe was asked for: each then has its own fate."""
        return sum(not plan.is_encoder for plan in self.plans) + len(self.refused) > 1

    @cached_property
    def reference(self) -> Reference:
        """The source with what was found out about it: for all artifacts."""
        from quantkit.quality.reference import Reference  # for what checks, here and below

        assert self.model is not None
        return Reference(self.checkpoint, self.model)

    def reference_of(self, plan: Plan) -> Reference:
        """The same for what a plan of a GGUF file makes: the model, or its encoder."""
        from quantkit.quality.reference import Reference

        return Reference(self.checkpoint, self.encoder) if plan.is_encoder and self.encoder else self.reference

    def reading(self, plan: Plan) -> Prepared:
        """The same with the source as a plan reads it: with even columns where it wants that and they are far apart."""
        return self._evened if plan.evens else self

    @cached_property
    def _evened(self) -> Prepared:
        """Statistics are of the columns as they were: with these nothing is moved."""
        if self.calibration is None or self.calibration.spec.reads_statistics or self.model is None:
            return self
        from quantkit.source.evened import evened  # few recipes want that

        return replace(self, checkpoint=evened(self.checkpoint, self.model, self.calibration.spec.threads))

    def evened_facts(self, plan: Plan) -> dict[str, int]:
        """The manifest's word on columns that were evened for a plan, {} where none were. Looks at all of them."""
        if not plan.evens:
            return {}
        from quantkit.source.evened import EvenedCheckpoint

        read = self.reading(plan).checkpoint
        return read.facts() if isinstance(read, EvenedCheckpoint) else {}

    @cached_property
    def source_run(self) -> SourceRun:
        """The source as engines are compared with it: it runs once for all artifacts."""
        from quantkit.evaluation.source_run import SourceRun  # for whoever has an engine

        return SourceRun(self.checkpoint, self.model)

    @cached_property
    def origin(self) -> Origin:
        """What records say of the source."""
        return Origin(self.checkpoint, self.hasher.result if self.hasher else None)

    def job_digest(self, chosen: Plan) -> str:
        """Identity of the work at hand: the plan, and the source as it is now."""
        return self.origin.job_digest(chosen.digest)

    @property
    def calibration_tokens(self) -> int:
        return sum(record.tokens for record in self.calibration.records) if self.calibration else 0

    def calibration_facts(self, chosen: Plan) -> dict[str, Any]:
        """The manifest's word on the text or the statistics that a plan makes use of."""
        used = chosen.calibrated or any(unit.importance is not None for unit in chosen.units)
        return {"calibration": self.calibration.facts(chosen.widened)} if self.calibration and used else {}


def with_text(prepared: Prepared, emit: Sink) -> Prepared:
    """Refuse recipes that are made with text where none was given. Raises RecipeError where no other is left.

    What is refused is told at once: the others may take hours.
    """
    lacking = {
        number: without_text(recipe)
        for number, (recipe, plan) in enumerate(zip(prepared.recipes, prepared.plans, strict=True))
        if plan.needs_inputs and not plan.calibrated
    }
    left = [number for number in range(len(prepared.plans)) if number not in lacking]
    refused = (*prepared.refused, *((prepared.recipes[number].name, lacking[number]) for number in lacking))
    if all(prepared.plans[number].is_encoder for number in left):
        raise refused[0][1]
    for name, error in refused:
        emit(Warned("refused", error.message if name in error.message else f"{name}: {error.message}"))
    return replace(
        prepared,
        recipes=tuple(prepared.recipes[number] for number in left),
        plans=tuple(prepared.plans[number] for number in left),
        refused=refused,
    )


def without_text(recipe: Recipe) -> RecipeError:
    """The error for a recipe that is made with text, where none was given."""
    text = "give --calib default, or FILE with text like what the model will see"
    other = "a recipe without, such as w8a16" if recipe.mixture is None else "--method rtn, which needs none"
    spent = recipe.mixture is not None and recipe.mixture.allotment is not None  # on what types cost with this method
    hint = text if spent else f"{text}; or {other}"
    return RecipeError(f"{recipe.name} needs calibration text", key="calib", hint=hint)
