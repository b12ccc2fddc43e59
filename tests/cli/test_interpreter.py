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
from quantkit.cli.main import run
os._exit = lambda code: print(code, gc.get_threshold()[0], gc.get_freeze_count() > 0, sys.getswitchinterval())
run()
"""
CALLED = """
import gc, sys
from quantkit.cli.main import main
before = gc.get_threshold(), sys.getswitchinterval()
print(main(sys.argv[1:]), (gc.get_threshold(), sys.getswitchinterval()) == before, gc.get_freeze_count())
"""


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_garbage_is_looked_for_once_work_has_begun(command: str, tmp_path: Path) -> None:
    arguments = [
        command,
        str(TINY),
        "--to",
        "bf16",
        "--quiet",
        *(["-o", str(tmp_path)] if command == "convert" else []),
    ]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True)
    objects, frozen = (interpreter.OBJECTS, True) if command == "convert" else (interpreter.OBJECTS_AT_START, False)
    assert done.stdout.splitlines()[-1] == f"0 {objects} {frozen} {interpreter.TURN_SECONDS}"


def test_a_caller_keeps_its_own_settings(tmp_path: Path) -> None:
    arguments = ["convert", str(TINY), "--to", "bf16", "--quiet", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", CALLED, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 True 0"
