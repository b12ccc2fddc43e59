"""A conversion in a process of its own, where flock means nothing, that may be killed before a system call."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from pathlib import Path

PRELOADED = ["racing", "quantkit.pipeline.convert", "quantkit.filling.fill", "quantkit.filling.slabs", "gguf"]


def convert(source: Path, out: Path, fault: str) -> None:
    """Convert, and end with its exit code. `fault` as QUANTKIT_FAULT, or ""."""
    fcntl.flock = lambda fd, operation: None
    if fault:
        os.environ["QUANTKIT_FAULT"] = fault
    from quantkit.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = main(["convert", str(source), "--to", "q8_0", "-o", str(out), "--quiet", "--no-verify", "--threads=1"])
    sys.exit(status)
