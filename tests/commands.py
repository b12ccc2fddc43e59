"""Run the command line in this process and see what a user sees."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.cli.main import main

TINY = Path(__file__).parent / "data" / "docs-llama-tiny"


@dataclass(frozen=True)
class Outcome:
    """Exit status and both streams of one command."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        [line] = self.stdout.splitlines()
        return json.loads(line)


def quantkit(*arguments: object) -> Outcome:
    """Run one command line in process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(a) for a in arguments])
    return Outcome(status, out.getvalue(), err.getvalue())
