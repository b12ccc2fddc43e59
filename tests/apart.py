"""Command lines run in another process, whose environment names the Hub: huggingface_hub reads it when imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import Outcome

CHILD = """
import json, sys
from commands import quantkit
for line in json.loads(sys.stdin.read()):
    done = quantkit(*line)
    print(json.dumps([done.status, done.stdout, done.stderr]), flush=True)
"""


def run_apart(lines: Sequence[Sequence[object]], endpoint: str, home: Path, **environment: str) -> list[Outcome]:
    """Run command lines one after the other in one process beside this one."""
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([[str(word) for word in line] for line in lines]),
        capture_output=True,
        text=True,
        check=False,
        env=cleared | told | environment,
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]
