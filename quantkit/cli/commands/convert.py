"""quantkit convert"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.exits import failures_json
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.errors import BatchError, GateError, QuantkitError

DEFAULT_REASON = "no --to given: q4_k_m, the usual first choice (about 30 % of the 16-bit size, a small loss)"


def convert(
    session: Session,
    want: options.Want,
    gated: options.Gated,
    out: options.Out = Path(),
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", metavar="llama.cpp", help="Let it load and run GGUF files, too.", rich_help_panel=options.RUN
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check tokenizer and numbers too.", rich_help_panel=options.RUN)
    ] = True,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="lmstudio",
            help="Folders below OUT as LM Studio wants them: PUBLISHER/MODEL-GGUF.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    threads: options.Threads = None,
    force: options.Force = False,
    paranoid: options.Paranoid = False,
    dry_run: options.DryRun = False,
) -> None:
    """Convert a checkpoint: plan, calibrate, quantize, verify, pack; GGUF files or a checkpoint for servers."""
    import quantkit

    if not want.to:
        session.note(DEFAULT_REASON)
    if dry_run:
        from quantkit.cli.commands.plan import show_plan

        show_plan(session, want.request(session.settings.offline, threads), out)
        return
    try:
        with quantkit.hash_ahead(want.source) as hasher:  # beside the imports that the next line brings
            request = want.request(session.settings.offline, threads)
            run = quantkit.Output(
                out=out, force=force, threads=threads, engine=engine, verify=verify, paranoid=paranoid
            )
            output = replace(run, gates=tuple(gated.gate or ()), eval_data=tuple(gated.eval_data or ()), layout=layout)
            with StopSignal(session.note) as stop:
                built = quantkit.convert(request, output, emit=session.emit, stop=stop, hasher=hasher)
    except BatchError as error:
        _summarize(session, gated, error.built, tuple(error.failures.values()))
        _show(session, error.built, error.failures)
        raise
    except GateError as error:
        _summarize(session, gated, (), (error,))
        raise
    _summarize(session, gated, built, ())
    _show(session, built, {})


def _summarize(
    session: Session, gated: options.Gated, built: Sequence[object], errors: Sequence[QuantkitError]
) -> None:
    import quantkit

    if gated.gate and gated.step_summary:
        quantkit.summarize_conversion(built, errors, session.emit)


def _show(session: Session, built: Sequence[Any], failures: Mapping[str, QuantkitError]) -> None:
    """Say what was made, and of several recipes which were not."""
    for artifact in built:
        session.note(artifact.summary())
        session.note("\n".join(f" next      {step.program}: {step.command}" for step in artifact.next))
    for recipe, error in failures.items():
        session.note(f" FAILED    {recipe}: error[{error.code}]: {error.message}")
    session.result(
        "quantkit.convert/1",
        {"artifacts": [artifact.as_json() for artifact in built], "failures": failures_json(failures)},
        [str(path) for artifact in built for path in artifact.outputs],
    )


COMMAND = Command(
    convert,
    place=10,
    examples=(
        "quantkit convert ./My-Model --to q4_k_m -o out",
        "quantkit convert ./My-Model --to gptq-w4g128 --calib text.jsonl -o out-gptq",
    ),
)
