"""quantkit pack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli import options
from quantkit.cli.command import Command
from quantkit.cli.session import Session


def pack(
    session: Session,
    work: Annotated[Path, typer.Argument(metavar="WORK", help="A finished folder of `quantkit quantize`.")],
    out: options.Out = Path(),
    card: options.WithCard = False,
    force: options.Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written and stop.")] = False,
) -> None:
    """Make the artifact, its manifest and its checksums from a work folder. The work folder stays as it is."""
    import quantkit

    if dry_run:
        names = quantkit.packed_names(work, out)
        session.result("quantkit.pack/1", {"would_write": [str(n) for n in names]}, [str(n) for n in names])
        return
    artifact = quantkit.pack(work, out, force=force, card=card, emit=session.emit)
    session.note(artifact.summary())
    session.note("\n".join(f" next      {step.program}: {step.command}" for step in artifact.next))
    session.result("quantkit.pack/1", {"artifact": artifact.as_json()}, [str(path) for path in artifact.outputs])


COMMAND = Command(
    pack,
    place=50,
    examples=(
        "quantkit pack work/Q4_K_M -o out",
        "quantkit pack work/Q4_K_M --dry-run",
    ),
)
