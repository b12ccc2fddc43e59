"""quantkit push"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session


def push(
    session: Session,
    source: Annotated[
        Path, typer.Argument(metavar="ARTIFACT|FOLDER", help="A folder of finished artifacts, or one GGUF file.")
    ],
    to: Annotated[str, typer.Argument(metavar="hf://org/name", help="The repository; it is made where it is missing.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Another branch than main; made if missing.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Of the commit.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing to the branch.")] = False,
    against: Annotated[
        str | None, typer.Option("--against", metavar="SRC", help="Compare the artifacts with their source first.")
    ] = None,
    adapter: options.Adapters = None,
    require_gates: Annotated[
        bool, typer.Option("--require-gates", help="Refuse artifacts that no gate has judged.")
    ] = False,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="FILE", help="What eval --json or --append wrote of them; repeatable."),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Publish verified artifacts on the Hub in one commit; what is there already is not sent again."""
    import quantkit

    request = quantkit.PushRequest(
        source=source,
        to=to,
        revision=revision,
        message=message,
        private=private,
        pr=pr,
        against=against,
        adapters=tuple(adapter or ()),
        require_gates=require_gates,
        records=tuple(measured or ()),
        offline=session.settings.offline,
    )
    pushed = quantkit.push(request, dry_run=dry_run, emit=session.emit)
    session.result("quantkit.push/1", pushed.as_json(), pushed.lines())


COMMAND = Command(
    push,
    place=72,
    examples=(
        "quantkit push out hf://me/My-Model-GGUF --dry-run",
        "quantkit push out/My-Model-Q4_K_M.gguf hf://me/My-Model-GGUF",
    ),
)
