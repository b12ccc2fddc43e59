"""The sensitivity stage: what every type costs every tensor of a model, as a file and as a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import UsageError
from quantkit.events import Published, Sink, ignore, never
from quantkit.pipeline.outputs import refuse_inputs
from quantkit.pipeline.prepare import prepare
from quantkit.pipeline.request import Request
from quantkit.pipeline.tune import Subject, measured, require_measurable
from quantkit.recipes.read import load_recipe
from quantkit.storage import hash_file, write_small
from quantkit.tuning.record import Sensitivity


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

    Raises UsageError for recipes without types to choose and for a request without text, ExistsError where `out` holds
    something else and `force` does not say to replace it, and what planning and walks raise.
    """
    if len(request.recipes) != 1:
        raise UsageError("one recipe says how values are chosen", hint="--to q4_k_m", key="recipes")
    require_measurable(request, load_recipe(request.recipes[0]))
    with prepare(request, None, emit) as prepared:
        if out is not None:
            refuse_inputs([out], prepared.inputs)
        [recipe], [plan] = prepared.recipes, prepared.plans
        assert prepared.calibration is not None
        found = measured(Subject(prepared.checkpoint, recipe, plan, prepared.calibration), emit, stop)
    if out is not None:
        data = found.encode()
        write_small(out, data, overwrite=force)
        emit(Published(str(out), len(data), hash_file(out)))
    return Measured(found, out)
