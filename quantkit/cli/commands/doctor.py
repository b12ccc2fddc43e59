"""quantkit doctor"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.command import Command
from quantkit.cli.session import Session

MARKS = {True: "ok", False: "PROBLEM", None: ""}


def doctor(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="Where output would go.")] = Path(),
) -> None:
    """Show the machine, versions, disk, caches and unfinished jobs."""
    import quantkit

    found = session.configuration
    off = [quantkit.Finding("config", "off: --no-config, or QUANTKIT_NO_CONFIG")] if found.off else []
    config = [quantkit.Finding("config", setting.words) for setting in found.settings]
    findings = (*quantkit.doctor(folder), *off, *config)
    lines = [f"{MARKS[f.ok]:<8}{f.area:<14}{f.what}" for f in findings]
    session.result("quantkit.doctor/1", {"findings": [asdict(f) for f in findings]}, lines)


COMMAND = Command(
    doctor,
    place=100,
    examples=(
        "quantkit doctor",
        "quantkit doctor out --json",
    ),
)
