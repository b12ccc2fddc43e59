"""The sensitivity stage: what every type costs every tensor of a model, as a file and as a map."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import InputError, UsageError
from quantkit.events import Published, Sink, ignore, never
from quantkit.pipeline.outputs import refuse_inputs, require_writable_names
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.request import Request
from quantkit.pipeline.tune import Subject, facts_of, measured, require_measurable
from quantkit.recipes.read import load_recipe
from quantkit.storage import exists, hash_file, require_small, write_small
from quantkit.tuning.record import Sensitivity, read_sensitivity


@dataclass(frozen=True)
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
    if len(request.recipes) != 1:
        raise UsageError("one recipe says how values are chosen", hint="--to q4_k_m", key="recipes")
    require_measurable(request, load_recipe(request.recipes[0]))
    with prepare(request, None, emit) as prepared:
        [recipe], [plan] = prepared.recipes, prepared.plans
        assert prepared.calibration is not None
        subject = Subject(prepared.checkpoint, recipe, plan, prepared.calibration)
        if out is not None:
            refuse_inputs([out], prepared.inputs)
            _require_place(out, subject, force)
        found = measured(subject, emit, stop)
    if out is not None:
        data = found.encode()
        write_small(out, data, overwrite=force)
        emit(Published(str(out), len(data), hash_file(out)))
    return Measured(found, out)


def _require_place(out: Path, subject: Subject, force: bool) -> None:
    """Raise ExistsError or NotWritableError where what is to be measured could not be written."""
    require_writable_names([out])
    require_small(out)
    if os.path.lexists(out) and not force:
        try:
            known = read_sensitivity(out)
        except InputError:
            raise exists(out) from None
        if any(getattr(known, name) != value for name, value in facts_of(subject).items()):
            raise exists(out)
