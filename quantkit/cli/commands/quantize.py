"""quantkit quantize"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.commands.plan import show_plan
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session


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
    with StopSignal(session.note) as stop:
        folders = quantkit.quantize(request, work, threads=threads, paranoid=paranoid, emit=session.emit, stop=stop)
    session.note("".join(f"next: quantkit pack {folder} -o OUT\n" for folder in folders).rstrip())
    session.result("quantkit.quantize/1", {"work": [str(f) for f in folders]}, [str(f) for f in folders])
