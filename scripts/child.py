"""A command in a process of its own, with what it took.

What the system counts of a process's memory begins with that of the one that started it, so a small one stands between.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BETWEEN = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w") as file:
    json.dump([seconds, usage.ru_utime + usage.ru_stime, peak], file)
sys.exit(status >> 8 or status & 127)
"""


@dataclass(frozen=True)
class Took:
    """Wall time and processor time in seconds, and peak resident memory in bytes."""

    seconds: float
    cpu: float
    peak: int


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Took:
    """Run a command without its output. Ends this process where it fails, with the last of what it said."""
    with tempfile.NamedTemporaryFile("r") as times, tempfile.TemporaryFile() as said:
        between = [sys.executable, "-I", "-S", "-c", BETWEEN, times.name, *command]
        status = subprocess.run(between, env=environment, stdout=said, stderr=said, check=False).returncode
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{said.read().decode(errors='replace')[-3000:]}")
        return Took(*json.load(times))
