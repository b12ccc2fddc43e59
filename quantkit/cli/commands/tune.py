"""quantkit tune: the smallest artifact that passes the gates, by measuring"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.interrupt import StopSignal
from quantkit.cli.session import Session
from quantkit.errors import UsageError
from quantkit.report.text import size, terminal_width, wrapped


def tune(
    session: Session,
    want: options.Want,
    gated: options.Gated,
    out: options.Out = Path(),
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Nothing larger: 5GB, 500MB.")
    ] = None,
    servers: Annotated[bool, typer.Option("--servers", help="Checkpoints for servers instead of GGUF files.")] = False,
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Make and measure recipes by rising size until one passes the gates; publish that one.

    Ends with 8 where none does. What was measured is kept: the same command goes on where it was stopped.
    """
    import quantkit

    request = want.request(session.settings.offline, threads)
    if want.to and servers:
        hint = "leave out --servers, or --to"
        raise UsageError("--servers names the recipes, and so does --to", hint=hint, key="servers")
    if not want.to:
        request = replace(request, recipes=quantkit.ladder_of(servers, request.consumers))
    values = gated.values()
    output = quantkit.Output(out, force, threads, gates=values["gates"], eval_data=values["eval_data"])
    with StopSignal(session.note) as stop:
        walk = quantkit.walk_ladder(request, output, max_size, dry_run=dry_run, emit=session.emit, stop=stop)
    width, lines = terminal_width(), []
    for step in walk.steps:
        mark = {True: "passes", False: "fails", None: "-"}[step.ok]
        lines += wrapped(f"{step.recipe:<12} {size(step.nbytes):>10}  {mark:<6} {step.words}".rstrip(), width, 4)
    if walk.artifact is not None:
        lines += [str(path) for path in walk.artifact.outputs]
    session.result("quantkit.tune/1", walk.as_json(), lines)
    if not dry_run:
        walk.require()


COMMAND = Command(
    tune,
    place=12,
    examples=(
        "quantkit tune ./My-Model --gate assistant --eval-data held-out.jsonl --max-size 5GB -o out",
        "quantkit tune ./My-Model --to q4_k_m,q5_k_m,q6_k --dry-run",
    ),
)
