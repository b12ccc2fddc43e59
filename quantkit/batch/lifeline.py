"""The program of a task, tied to whoever started it: `python -m quantkit.batch.lifeline convert ...` is
`python -m quantkit convert ...` that is asked to stop, as by Ctrl-C, when its standard input ends.

Nobody is left behind when a scheduler is killed, on any system: the other end of a pipe closes with its process.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading

READ_BYTES = 4096


def wait_for_end(fd: int) -> None:
    """Read until the other end is closed, then ask this process to stop."""
    try:
        while os.read(fd, READ_BYTES):
            pass
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    os.environ["QUANTKIT_NO_CONFIG"] = "1"  # a task is what its command line says
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make what they run in the background ignore it
    held = os.dup(0)  # the program itself gets an empty input
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    threading.Thread(target=wait_for_end, args=(held,), daemon=True).start()
    runpy.run_module("quantkit", run_name="__main__", alter_sys=True)
