"""quantkit plan, and --dry-run of the commands that plan"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.exits import failures_json
from quantkit.cli.session import Session
from quantkit.errors import BatchError, ResourceError
from quantkit.records import record
from quantkit.report.predicted import predicted_words
from quantkit.report.text import count, duration, size, table, terminal_width, wrapped
from quantkit.units import counted

if TYPE_CHECKING:
    from quantkit.pipeline.estimate import Estimate
    from quantkit.pipeline.fit import Candidate
    from quantkit.pipeline.request import Request
    from quantkit.plan.base import Plan

DEFAULT_CONTEXT = 8192
SHOWN_FALLBACKS = 8


def plan(
    session: Session,
    want: options.Want,
    out: options.Out = Path(),
    context: Annotated[int, typer.Option("--ctx", min=1, help="Tokens in the cache when serving.")] = DEFAULT_CONTEXT,
    kv_type: Annotated[str, typer.Option("--kv", metavar="TYPE", help="Type of the cache when serving.")] = "f16",
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            metavar="SIZE|DEVICE",
            help="Memory to serve in: 24GB, rtx4090, m2-16gb. Without --to: choose the largest recipe that fits.",
        ),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its type and the reason.")] = False,
) -> None:
    """Say what convert would write: sizes to the byte, disk, memory, time, serving memory. Writes nothing.

    With --fit and without --to it chooses the largest recipe that fits, and ends with 5 where none does.
    """
    import quantkit

    request = want.request(session.settings.offline)
    if fit is None:
        show_plan(session, request, out, Show(context, kv_type, None, tensors))
        return
    budget = quantkit.memory_for(fit)
    fitting: tuple[Candidate, ...] = ()
    if not want.to:
        fitting = quantkit.candidates(request, context, kv_type, session.emit)
        request = replace(request, recipes=(quantkit.largest_fitting(fitting, budget).recipe,))
    show_plan(session, request, out, Show(context, kv_type, budget, tensors, fitting))


@record
class Show:
    """What to show of a plan besides the sizes."""

    context: int = DEFAULT_CONTEXT
    kv_type: str = "f16"
    fit_bytes: int | None = None
    tensors: bool = False
    fitting: tuple[Candidate, ...] = ()
    modelfile: bool = False


def show_plan(session: Session, request: Request, out: Path, show: Show | None = None) -> None:
    """Plan a request and print it."""
    import quantkit

    show = replace(show or Show(), modelfile="ollama" in request.consumers)
    stem = out.stem if out.suffix == ".gguf" else None
    folder = out.parent if stem else out
    prepared = quantkit.prepare(request, stem, session.emit, headers=True)
    prepared.checkpoint.close()
    lines: list[str] = _fitting_lines(show)
    data = []
    needed = []
    beside = sum(chosen.nbytes for chosen in prepared.plans if chosen.is_encoder)
    for chosen in prepared.plans:
        found = quantkit.estimate(
            chosen, folder, context=show.context, kv_type=show.kv_type, tokens=prepared.calibration_tokens
        )
        if not chosen.is_encoder:
            found = found.served_with(beside)
            needed.append(found.serving.nbytes)
        body = quantkit.plan_json(chosen, found, request.tp)
        if show.fit_bytes is not None:
            body["serving"]["budget_bytes"] = show.fit_bytes
            body["serving"]["fits"] = found.fits_serving(show.fit_bytes)
        data.append(body)
        lines += [*_lines(chosen, found, show), *_consumer_lines(chosen, request.tp), ""]
    short = show.fit_bytes is not None and min(needed) > show.fit_bytes
    if not (short and session.settings.json):  # one object: that of the error
        result: dict[str, Any] = {"source": prepared.origin.facts(), "plans": data}
        if prepared.refused:
            result["failures"] = failures_json(dict(prepared.refused))
        if show.fit_bytes is not None and show.fitting:
            result["fit"] = [candidate.as_json(show.fit_bytes) for candidate in show.fitting]
        session.result("quantkit.plan/1", result, lines[:-1])
    if short:
        what = f"{size(min(needed))} are needed, {size(show.fit_bytes or 0)} are there"
        hint = "quantkit plan SRC --fit SIZE, without --to, names the largest recipe that fits"
        raise ResourceError(f"does not fit: {what}", hint=hint)
    if prepared.refused:
        raise BatchError(dict(prepared.refused), prepared.plans)


def _fitting_lines(show: Show) -> list[str]:
    """The recipes that were tried for --fit: those that are too large, and the first that are not."""
    if show.fit_bytes is None or not show.fitting:
        return []
    rows = [
        (candidate.recipe, size(candidate.serving.nbytes), "fits" if candidate.fits(show.fit_bytes) else "too large")
        for candidate in show.fitting
    ]
    title = f"in {size(show.fit_bytes)}, with {counted(show.context, 'token')} of {show.kv_type} cache"
    return [*table(rows, ("recipe", "needs", title)), ""]


def _lines(plan: Plan, found: Estimate, show: Show) -> list[str]:

    report = found.size
    lines = [
        f"{plan.recipe}: {plan.architecture}, {count(report.weights)} weights",
        f"  source   {size(report.source_bytes)}",
        *_file_lines(plan, show),
        f"  size     {size(report.nbytes)}, {report.bits_per_weight:.2f} bits per weight,"
        f" {100 * report.ratio:.1f} % of the source",
        f"           codes {size(report.code_bytes)}, scales {size(report.scale_bytes)},"
        f" header {size(report.header_bytes)}, padding {size(report.padding_bytes)}",
        f"  disk     {size(report.nbytes)} of {size(found.disk_free_bytes)} free{_fits(found.fits_disk)}",
        f"  memory   {size(found.memory_bytes)} to make it{_fits(found.fits_memory)}",
        f"  time     about {duration(found.seconds)} on this machine",
        f"  serving  {size(found.serving.nbytes)} with {counted(show.context, 'token')} of {show.kv_type} cache"
        f" ({size(found.serving.weight_bytes)} + {size(found.serving.kv_bytes)})",
    ]
    if plan.allocation:
        lost = f"  loss     predicted KL {predicted_words(plan.allocation)}"
        lines += wrapped(lost, terminal_width(), 11)
    if show.fit_bytes is not None:
        verdict = "fits in" if found.fits_serving(show.fit_bytes) else "DOES NOT FIT in"
        lines.append(f"           {verdict} {size(show.fit_bytes)}")
    rows = [(t.qtype, str(t.tensors), count(t.weights), size(t.nbytes), size(t.scale_bytes)) for t in report.types]
    lines += ["", *("  " + line for line in table(rows, ("type", "tensors", "weights", "size", "of it scales")))]
    lines += [*_layer_lines(plan), *_norm_lines(plan), *_fallback_lines(plan)]
    return [*lines, *(_tensor_lines(plan) if show.tensors else ())]


def _file_lines(plan: Plan, show: Show) -> list[str]:
    """Files of weights, and what else there is."""
    weights = [f for f in plan.files if f.name.endswith((".gguf", ".safetensors"))]
    others = [f for f in plan.files if f not in weights]
    lines = [f"  file     {f.name}  {f.nbytes:,} bytes" for f in weights]
    if show.modelfile and not (plan.is_checkpoint or plan.is_encoder):
        lines.append("           a Modelfile for Ollama, with the template in its terms if that can be proved")
    return (
        [*lines, f"           {len(others)} other files  {sum(f.nbytes for f in others):,} bytes"] if others else lines
    )


def _consumer_lines(plan: Plan, tp: int) -> list[str]:
    """Who loads it, and who does not and why."""
    import quantkit

    return ["", *(f"  {quantkit.verdict_line(verdict)}" for verdict in quantkit.consumer_verdicts(plan, tp))]


def _layer_lines(plan: Plan) -> list[str]:
    """How many layers of a checkpoint are rounded, and which stay as they are."""
    if not plan.rounded or not plan.is_checkpoint:
        return []
    rounded = {unit.name for unit in plan.rounded}
    kept = [linear.name for linear in plan.linears if linear.name not in rounded]
    lines = [
        "",
        f"  {counted(len(rounded), 'layer')} of blocks are rounded"
        + (f", {len(kept)} stay as they are" if kept else ""),
    ]
    return lines + [f"    {name}" for name in kept[:SHOWN_FALLBACKS]]


def _norm_lines(plan: Plan) -> list[str]:
    """How many norms of a file with feedback may move."""
    if not plan.refits:
        return []
    norms = counted(len(plan.refits), "norm", "is", "are")
    return ["", f"  {norms} fitted to what is rounded, where other text says that it helps"]


def _fallback_lines(plan: Plan) -> list[str]:
    """What is stored otherwise than the recipe wanted, because rows do not fit."""
    changed = [f"    {unit.name}  {unit.wanted} -> {unit.word}" for unit in plan.units if unit.wanted]
    if not changed:
        return []
    if plan.is_checkpoint:
        head = (
            f"  {len(changed)} of {counted(len(plan.rounded), 'layer')} "
            "have rows that the recipe's groups do not divide:"
        )
    else:
        head = (
            f"  {len(changed)} of {counted(len(plan.units), 'tensor', 'has', 'have')} rows that do not fit their type:"
        )
    more = len(changed) - SHOWN_FALLBACKS
    listing = "" if plan.is_checkpoint else " (--tensors lists all)"
    return ["", head, *changed[:SHOWN_FALLBACKS], *([f"    and {more} more{listing}"] if more > 0 else [])]


def _tensor_lines(plan: Plan) -> list[str]:
    """Every tensor with its type, and the reason where there is one."""
    why = any(unit.reason for unit in plan.units)
    cells = [
        (t.name, t.dtype.lower(), "x".join(map(str, t.shape)), str(t.nbytes), *([unit.reason] if why else []))
        for unit in plan.units
        for t in unit.outputs
    ]
    return [
        "",
        *("  " + line for line in table(cells, ("tensor", "type", "shape", "bytes", *(["why"] if why else [])))),
    ]


def _fits(ok: bool) -> str:
    return "" if ok else "  NOT ENOUGH"


COMMAND = Command(
    plan,
    place=20,
    examples=(
        "quantkit plan ./My-Model --to q4_k_m,q6_k",
        "quantkit plan ./My-Model --fit rtx4090 --ctx 32768",
    ),
)
