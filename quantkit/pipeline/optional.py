"""Steps of convert that only some runs take, and import only then: engines, gates, model cards, Modelfiles, words for
what is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.consumers import parse_consumers
from quantkit.events import Sink
from quantkit.extras import RUN_MODELS, require_installed
from quantkit.pipeline.output import Output
from quantkit.pipeline.outputs import Artifact, output_paths
from quantkit.pipeline.prepared import Prepared
from quantkit.pipeline.request import Request

if TYPE_CHECKING:
    from quantkit.evaluation.gates import Gate
    from quantkit.pipeline.gating import Gating
    from quantkit.plan.base import Plan
    from quantkit.report.manifest import Manifest


def require_engine_of(output: Output) -> None:
    """Raise UsageError and UnsupportedError, before any work, for an engine that checks cannot ask."""
    if output.engine is not None:
        from quantkit.pipeline.verify import require_checked

        require_checked(output.engine)


def require_gates(request: Request, output: Output) -> tuple[Gate, ...]:
    """The gates, where convert can judge them. Raises UsageError and UnsupportedError before any work."""
    if not (output.gates or output.eval_data):
        return ()
    from quantkit.pipeline.gating import require_gateable

    gates = require_gateable(output.gates, output.eval_data, request.calib)
    require_installed("--gate", RUN_MODELS, key="gate")
    return gates


def differs(older: Manifest | None, plan: Plan, prepared: Prepared) -> str:
    """What tells the artifact that is in the way from the one that is planned."""
    from quantkit.pipeline.difference import difference

    return difference(older, plan, prepared)


def gating_of(gates: tuple[Gate, ...], request: Request, prepared: Prepared, output: Output) -> Gating | None:
    """What judges the gates, if there are any."""
    if not gates:
        return None
    from quantkit.pipeline.gating import Gating

    return Gating(prepared, gates, output, request.offline)


def require_texts(request: Request, prepared: Prepared, output: Output) -> None:
    """Raise, before any work, what keeps the texts that are asked for from being written beside the artifacts."""
    paths = output_paths(prepared, output.out)
    if request.card:
        from quantkit.pipeline.card import require_cards

        require_cards(paths, prepared.checkpoint, force=output.force)
    if _for_ollama(request):
        from quantkit.pipeline.modelfile import require_modelfiles

        require_modelfiles(prepared.plans, paths, force=output.force)


def write_texts(
    request: Request, prepared: Prepared, built: tuple[Artifact, ...], output: Output, emit: Sink
) -> tuple[Artifact, ...]:
    """The artifacts with their Modelfiles, and cards, which name these, beside them, where they are asked for."""
    if _for_ollama(request):
        from quantkit.pipeline.modelfile import modelfiles_beside

        built = modelfiles_beside(built, force=output.force, emit=emit)
    if request.card:
        from quantkit.pipeline.card import write_cards_of

        write_cards_of([artifact.path for artifact in built], prepared.checkpoint, force=output.force)
    return built


def _for_ollama(request: Request) -> bool:
    return "ollama" in parse_consumers(request.consumers)
