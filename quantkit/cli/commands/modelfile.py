"""quantkit modelfile"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session


def modelfile(
    session: Session,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|FOLDER...", help="GGUF files, or folders of them; each gets one.")
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="FILE|NAME", help="For an adapter: its model, a GGUF file or one of Ollama's."),
    ] = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
) -> None:
    """Write a Modelfile for Ollama: the chat template in its terms, proved by rendering both; stops; parameters."""
    import quantkit

    request = quantkit.ModelfileRequest(paths=tuple(paths), base=base, force=force)
    made = quantkit.write_modelfiles(request, dry_run=dry_run, emit=session.emit)
    if not session.settings.json:
        for each in made:
            session.note("\n".join(each.lines()))
    lines = [line for each in made for line in (each.text.splitlines() if dry_run else [str(each.path)])]
    session.result("quantkit.modelfile/1", {"modelfiles": [each.as_json() for each in made]}, lines)


COMMAND = Command(
    modelfile,
    place=71,
    examples=(
        "quantkit modelfile out/My-Model-Q4_K_M.gguf",
        "quantkit modelfile out --dry-run",
    ),
)
