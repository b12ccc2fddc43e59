"""The sensitivity stage: what every type costs every tensor of a model, as a file and as a map."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, UsageError
from quantkit.events import Published, Sink, ignore, never
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.pipeline.estimate import estimate
from quantkit.pipeline.outputs import refuse_inputs, require_writable_names
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.request import Request, language_model_alone
from quantkit.pipeline.tune import Subject, facts_of, measured, require_measurable, require_priced
from quantkit.recipes.read import load_recipe
from quantkit.records import record
from quantkit.report.text import duration, size
from quantkit.storage import exists, hash_file, require_small, write_small
from quantkit.tuning.candidates import candidates
from quantkit.tuning.record import Sensitivity, read_sensitivity
from quantkit.units import counted
from quantkit.untrusted import shown


@record
class Measured:
    """What was measured, and the file that holds it, if one was asked for."""

    sensitivity: Sensitivity
    path: Path | None


def sensitivity(
    request: Request,
    out: Path | None = None,
    *,
    force: bool = False,
    emit: Sink = ignore,
    stop: Callable[[], bool] = never,
) -> Measured:
    """Measure what types cost the tensors of a model, with the method of the request's one recipe, and write it to
    `out` if that is given.

    Raises UsageError for recipes without types to choose and for a request without text, before anything is measured
    ExistsError where `out` holds something else and `force` does not say to replace it and NotWritableError for a place
    that takes no file, and what planning and walks raise.
    """
    require_installed("sensitivity", RUN_MODELS)
    with _prepared(request, emit) as prepared:
        subject = _subject(prepared, out, force)
        found = measured(subject, emit, stop)
    if out is not None:
        data = found.encode()
        write_small(out, data, overwrite=force)
        emit(Published(str(out), len(data), hash_file(out)))
    return Measured(found, out)


@record
class SensitivityPlan:
    """What would be measured: types of tensors, with which text, and about what that takes."""

    recipe: str
    method: str
    tensors: int
    types: int
    learned_tokens: int
    judged_tokens: int
    elsewhere_tokens: int
    memory_bytes: int
    seconds: float
    out: Path | None

    def as_json(self) -> dict[str, Any]:
        facts = {name: value for name, value in asdict(self).items() if name != "out"}
        return {**facts, "seconds": round(self.seconds, 1), "would_write": str(self.out) if self.out else None}

    def lines(self) -> list[str]:
        """For people."""
        text = f"{counted(self.learned_tokens, 'token')} forward, {self.judged_tokens:,} there and back"
        text += f", and {self.elsewhere_tokens:,} of text of other kinds" if self.elsewhere_tokens else ""
        return [
            (
                f"{self.recipe}: {counted(self.types, 'type')} of "
                f"{counted(self.tensors, 'tensor')}, values by {self.method}"
            ),
            f"  text     {text}",
            f"  memory   about {size(self.memory_bytes)}",
            f"  time     about {duration(self.seconds)} on this machine",
            f"  file     {shown(self.out)}" if self.out else "  file     none: give --out to keep what is measured",
        ]


def plan_sensitivity(
    request: Request, out: Path | None = None, *, force: bool = False, emit: Sink = ignore
) -> SensitivityPlan:
    """What `sensitivity` would measure. Nothing is run or written; raises what it raises before it measures."""
    with _prepared(request, emit, headers=True) as prepared:
        subject = _subject(prepared, out, force, write=False)
        facts, types = facts_of(subject), candidates(subject.plan)
        elsewhere = facts["elsewhere"].tokens if facts["elsewhere"] else 0
        tokens = facts["learned_tokens"] + 2 * (facts["judged_tokens"] + elsewhere)
        costs = estimate(subject.plan, threads=request.threads, tokens=tokens)
        return SensitivityPlan(
            recipe=subject.recipe.name,
            method=subject.recipe.method.name,
            tensors=len(types),
            types=sum(map(len, types.values())),
            learned_tokens=facts["learned_tokens"],
            judged_tokens=facts["judged_tokens"],
            elsewhere_tokens=elsewhere,
            memory_bytes=costs.memory_bytes,
            seconds=costs.seconds,
            out=out,
        )


def _prepared(request: Request, emit: Sink, *, headers: bool = False) -> Prepared:
    if len(request.recipes) != 1:
        raise UsageError("one recipe says how values are chosen", hint="--to q4_k_m", key="recipes")
    require_measurable(request, load_recipe(request.recipes[0]))
    return prepare(language_model_alone(request, "sensitivity"), None, emit, headers=headers)


def _subject(prepared: Prepared, out: Path | None, force: bool, *, write: bool = True) -> Subject:
    """What is measured. Raises for an `out` that could not be written, which is tried only to `write`."""
    require_priced(prepared.checkpoint, "sensitivity")
    [recipe], [plan] = prepared.recipes, prepared.plans
    assert prepared.calibration is not None and prepared.model is not None
    subject = Subject(prepared.checkpoint, prepared.model, recipe, plan, prepared.calibration)
    if out is not None:
        refuse_inputs([out], prepared.inputs)
        _require_place(out, subject, force, write=write)
    return subject


def _require_place(out: Path, subject: Subject, force: bool, *, write: bool) -> None:
    """Raise ExistsError or NotWritableError where what is to be measured could not be written."""
    require_writable_names([out])
    if write:
        require_small(out)
    if os.path.lexists(out) and not force:
        try:
            known = read_sensitivity(out)
        except InputError:
            raise exists(out) from None
        if any(getattr(known, name) != value for name, value in facts_of(subject).items()):
            raise exists(out)
