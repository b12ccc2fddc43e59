"""quantkit verify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session
from quantkit.errors import UsageError

MARKS = {True: "ok", False: "FAILED", None: "not checked"}


def verify(
    session: Session,
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="A GGUF file (of a split one the first shard), or a folder.")
    ],
    against: Annotated[
        str | None, typer.Option("--against", metavar="SRC", help="The checkpoint it was made from.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="llama.cpp|torch", help="Also run it: GGUF files, checkpoints."),
    ] = None,
    say: Annotated[str | None, typer.Option("--say", metavar="TEXT", help="Let the engine continue this text.")] = None,
    sample_rows: Annotated[
        int | None, typer.Option("--sample-rows", min=1, help="Compare only about this many rows of each tensor.")
    ] = None,
    pre: Annotated[str | None, typer.Option("--pre", metavar="NAME", help="As given to convert.")] = None,
    threads: options.Threads = None,
) -> None:
    """Check an artifact: files, structure, tokenizer, numbers and, with --engine, the real consumer."""
    import quantkit

    for option, value, needed, other in (
        ("--say", say, "--engine", engine),
        ("--sample-rows", sample_rows, "--against", against),
        ("--pre", pre, "--against", against),
    ):
        if value is not None and other is None:
            raise UsageError(f"{option} needs {needed}", hint=f"give {needed}, or leave {option} out")
    seen = quantkit.verify(
        artifact,
        against=against,
        options=quantkit.VerifyOptions(engine, say, sample_rows, threads, session.settings.offline, pre),
        emit=session.emit,
    )
    lines = [f"{c.name:<10} {MARKS[c.ok]:<12} {c.detail}".rstrip() for c in seen.checks]
    for check in seen.checks:
        for worst in check.data.get("worst", ()):
            noise = "no number" if worst["snr_db"] is None else f"{worst['snr_db']:6.2f} dB"
            lines.append(f"  {worst['tensor']:<28} {worst['type']:<6} {noise}")
        if "text" in check.data:
            lines.append(f"  {check.data['text']}")
    session.result("quantkit.verify/1", {"ok": seen.ok, "checks": seen.as_json()}, lines)
    seen.require(artifact)


COMMAND = Command(
    verify,
    place=60,
    examples=(
        "quantkit verify out/My-Model-Q4_K_M.gguf --against ./My-Model",
        "quantkit verify out-gptq --against ./My-Model --engine torch",
    ),
)
