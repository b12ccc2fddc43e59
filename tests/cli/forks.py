"""Command lines run in forked children, to be killed or failed at every point where they touch their output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

# Runs commands in forked children of a process that has imported everything, so that hundreds of runs take seconds.
SERVER = """
import gc, os, sys, json
from quantkit.cli.main import main
import numpy, numba, gguf, quantkit.pipeline.convert
for module in sys.argv[2:]:
    __import__(module)
warm = json.loads(sys.argv[1])
if warm:
    main(warm)  # loads the compiled encoders; never one that runs torch, whose threads do not survive a fork
os.fsync = os.fstat  # as in tests/conftest.py: who is killed loses nothing that the system has
gc.collect()
gc.freeze()  # a child whose collector walks what was imported copies each page of it: half of the time of a run
for line in sys.stdin:
    fault, arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        if fault:
            os.environ["QUANTKIT_FAULT"] = fault
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
            status = main(arguments)
            sys.stdout.flush()
            os._exit(status)
    print("\\n" + json.dumps(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """A process that runs command lines in forked children, after it has imported `modules` and run `warm`, if any."""

    def __init__(self, warm: list[str], *modules: str) -> None:
        command = [sys.executable, "-c", SERVER, json.dumps(warm), *modules]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, arguments: list[str], fault: str | None = None) -> int:
        """The exit status of one run; minus the signal number when it was killed."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps([fault, arguments]) + "\n")
        self._server.stdin.flush()
        for line in self._server.stdout:
            if line.strip().lstrip("-").isdigit():
                return os.waitstatus_to_exitcode(int(line))
        raise AssertionError("the server ended")

    def close(self) -> None:
        self._server.communicate("", timeout=60)


def operations(forks: Forks, folder: Path, arguments: list[str], name: str = "model.gguf") -> int:
    """How many times a whole run touches its output: the largest n at which a fault still shows."""
    low, high = 1, 4096
    while low < high:
        middle = (low + high + 1) // 2
        target = folder / f"{middle}" / name
        target.parent.mkdir()
        if forks.run([*arguments, "-o", str(target)], f"kill:{middle}") == -signal.SIGKILL:
            low = middle
        else:
            high = middle - 1
    return low


def spread(count: int, points: int) -> list[int]:
    """`points` numbers from 1 to `count`, evenly."""
    return sorted({1 + i * (count - 1) // max(points - 1, 1) for i in range(points)})
