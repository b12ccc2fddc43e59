"""quantkit verify"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit import Check, Evaluation, Verification

What = Annotated[
    Path,
    typer.Argument(metavar="ARTIFACT", help="A GGUF file (of a split one the first shard), a folder, a release."),
]
SignedBy = Annotated[
    Path | None,
    typer.Option("--require-signature", metavar="PUB.pem", help="Its folder must be signed with this key."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="SRC", help="The model of the adapter or draft that --against names; as for convert."
    ),
]
SampleRows = Annotated[
    int | None, typer.Option("--sample-rows", min=1, help="Compare only about this many rows of each tensor.")
]
MARKS = {True: "ok", False: "FAILED", None: "not checked"}


def verify(
    session: Session,
    artifact: What,
    against: Annotated[
        str | None, typer.Option("--against", metavar="SRC", help="The checkpoint it was made from.")
    ] = None,
    adapter: options.Adapters = None,
    base: Base = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="llama.cpp|transformers|torch", help="Also run it: GGUF files, checkpoints."),
    ] = None,
    say: Annotated[str | None, typer.Option("--say", metavar="TEXT", help="Let the engine continue this text.")] = None,
    sample_rows: SampleRows = None,
    pre: Annotated[str | None, typer.Option("--pre", metavar="NAME", help="As given to convert.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="GATE", help="Also measure on --data: 'kld<0.03', a profile; repeatable."),
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", metavar="FILE", help="Text for gates; see eval.")] = None,
    require_signature: SignedBy = None,
    threads: options.Threads = None,
    step_summary: options.StepSummary = True,
) -> None:
    """Check an artifact: files, structure, tokenizer, numbers and, with --engine, the real consumer."""
    import quantkit

    _require_needed(
        ("--say", say, "--engine", engine),
        ("--sample-rows", sample_rows, "--against", against),
        ("--pre", pre, "--against", against),
        ("--adapter", adapter or None, "--against", against),
        ("--base", base, "--against", against),
        ("--gate", gate or None, "--against", against),
        ("--gate", gate or None, "--data", data or None),
        ("--data", data or None, "--gate", gate or None),
    )
    gates, texts, adapters = tuple(gate or ()), tuple(data or ()), tuple(adapter or ())
    offline = session.settings.offline
    request = quantkit.EvalRequest(
        (artifact,), against, data=texts, gates=gates, pre=pre, threads=threads, offline=offline, adapters=adapters
    )
    if gate:
        quantkit.require_gateable_artifact(artifact)
        quantkit.require_text(request)
    asked = quantkit.VerifyOptions(engine, say, sample_rows, threads, offline, pre, base)
    seen = quantkit.verify(
        artifact, against=against, adapters=adapters, options=asked, signed_by=require_signature, emit=session.emit
    )
    lines = _lines(seen.checks)
    measured = quantkit.evaluate(request, emit=session.emit) if gate and seen.ok else None
    if measured is not None:
        if step_summary:
            quantkit.summarize_evaluation(measured, emit=session.emit)
        lines += [f"{'gate':<10} {MARKS[verdict.ok]:<12} {verdict.words}" for verdict in measured.artifacts[0].verdicts]
    session.result("quantkit.verify/1", _body(seen, measured), lines)
    seen.require(artifact)
    if measured is not None:
        measured.require()


def _body(seen: Verification, measured: Evaluation | None) -> dict[str, Any]:
    gates = {} if measured is None else {"gates": [verdict.as_json() for verdict in measured.artifacts[0].verdicts]}
    return {"ok": seen.ok and (measured is None or measured.ok), "checks": seen.as_json(), **gates}


def _require_needed(*pairs: tuple[str, object, str, object]) -> None:
    """Raise UsageError for an option that was given without the other one that it needs."""
    for option, value, needed, other in pairs:
        if value is not None and other is None:
            raise UsageError(f"{option} needs {needed}", hint=f"give {needed}, or leave {option} out")


def _lines(checks: Sequence[Check]) -> list[str]:
    """What was looked at, and below all of it the worst tensors and what an engine wrote."""
    lines = [f"{check.name:<10} {MARKS[check.ok]:<12} {check.detail}".rstrip() for check in checks]
    for check in checks:
        for worst in check.data.get("worst", ()):
            noise = "no number" if worst["snr_db"] is None else f"{worst['snr_db']:6.2f} dB"
            lines.append(f"  {worst['tensor']:<28} {worst['type']:<6} {noise}")
        if "text" in check.data:
            lines.append(f"  {check.data['text']}")
    return lines


COMMAND = Command(
    verify,
    place=60,
    examples=(
        "quantkit verify out/My-Model-Q4_K_M.gguf --against ./My-Model",
        "quantkit verify out-gptq --against ./My-Model --engine torch",
        "quantkit verify out --require-signature pub.pem",
    ),
)
