"""quantkit quantize"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.commands.plan import show_plan
from quantkit.cli.exits import failures_json
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.errors import BatchError, QuantkitError
from quantkit.report.shell import shell_word


def quantize(
    session: Session,
    want: options.Want,
    work: Annotated[Path, typer.Option("--out", "-o", metavar="WORK", help="The work folder; made if missing.")],
    threads: options.Threads = None,
    paranoid: options.Paranoid = False,
    dry_run: options.DryRun = False,
) -> None:
    """Quantize into a resumable work folder; quantkit pack makes the artifact from it."""
    import quantkit

    request = want.request(session.settings.offline, threads)
    if dry_run:
        show_plan(session, request, work)
        return
    try:
        with StopSignal(session.note) as stop:
            folders = quantkit.quantize(request, work, threads=threads, paranoid=paranoid, emit=session.emit, stop=stop)
    except BatchError as error:
        _show(session, error.built, error.failures)
        raise
    _show(session, folders, {})


def _show(session: Session, folders: Sequence[object], failures: Mapping[str, QuantkitError]) -> None:
    """Say which folders are ready, and of several recipes which failed."""
    session.note("".join(f"next: quantkit pack {shell_word(str(folder))} -o OUT\n" for folder in folders).rstrip())
    work = [str(folder) for folder in folders]
    session.result("quantkit.quantize/1", {"work": work, "failures": failures_json(failures)}, work)


COMMAND = Command(
    quantize,
    place=40,
    examples=(
        "quantkit quantize ./My-Model --to q4_k_m -o work",
        "quantkit quantize ./My-Model --to q4_k_m,q8_0 -o work",
    ),
)
