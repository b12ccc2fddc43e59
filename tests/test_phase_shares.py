"""scripts/phase_shares.py: each part of a conversion is found where the script looks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "phase_shares.py"
TINY = Path(__file__).parent / "data" / "docs-llama-tiny"


def test_all_phases_are_seen(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(TINY), "q8_0", str(tmp_path / "out")]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    whole = told.pop("cpu_seconds")
    assert {*told} == {"start", "plan", "read", "decode", "encode", "write", "check", "hash", "rest"}
    assert all(seconds > 0 for phase, seconds in told.items() if phase != "write")
    assert abs(sum(told.values()) - whole) < 0.01
