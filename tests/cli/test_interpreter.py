"""How Python runs a command of the program, and that the library leaves it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import TINY

from quantkit.cli import interpreter

PROGRAM = """
import gc, os, sys
from quantkit.cli import interpreter
from quantkit.cli.main import run
interpreter.START_SECONDS = float(sys.argv.pop(1))
os._exit = lambda code: print(code, gc.get_threshold()[0], gc.get_freeze_count() > 0, round(sys.getswitchinterval(), 9))
run()
"""
CALLED = """
import gc, sys
from quantkit.cli.main import main
before = gc.get_threshold(), sys.getswitchinterval()
print(main(sys.argv[1:]), (gc.get_threshold(), sys.getswitchinterval()) == before, gc.get_freeze_count())
"""


@pytest.mark.parametrize(("command", "start_seconds"), [("plan", 0), ("convert", 0), ("convert", 1e9)])
def test_garbage_is_looked_for_in_work_that_takes_longer(command: str, start_seconds: float, tmp_path: Path) -> None:
    arguments = [
        command,
        str(TINY),
        "--to",
        "bf16",
        "--quiet",
        *(["-o", str(tmp_path)] if command == "convert" else []),
    ]
    run = [sys.executable, "-c", PROGRAM, str(start_seconds), *arguments]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    settled = command == "convert" and not start_seconds
    objects, frozen = (interpreter.OBJECTS, True) if settled else (interpreter.OBJECTS_AT_START, False)
    assert done.stdout.splitlines()[-1] == f"0 {objects} {frozen} {interpreter.TURN_SECONDS}"


def test_a_caller_keeps_its_own_settings(tmp_path: Path) -> None:
    arguments = ["convert", str(TINY), "--to", "bf16", "--quiet", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", CALLED, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 True 0"
