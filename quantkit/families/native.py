"""Native libraries that read files of strangers: tried in a process of their own first, their panics made errors.

The tokenizers library allocates what a file claims, and gives up the whole process where it cannot. A file that does
so, or loops, does it in a child with little memory and time; the bytes that survived are loaded here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from quantkit.errors import InputError
from quantkit.untrusted import shown

MEMORY_BYTES = 1 << 29
MEMORY_PER_BYTE = 40  # of the file: 262,144 tokens with 514,906 merges (20 MB) take 0.5 GB
CPU_SECONDS = 2
CPU_SECONDS_PER_MB = 1  # such a file takes 2 s
WALL_FACTOR = 50  # a loaded machine is slow, which is not the file's fault
HINT = "fetch the tokenizer files again, or save the tokenizer again with transformers"
PANIC = "PanicException"  # pyo3's, which cannot be imported and is no Exception


@lru_cache(maxsize=2)
def try_tokenizer_json(data: bytes, name: str) -> None:
    """Load a tokenizer.json in a process of its own and encode some texts with it.

    Takes as long as loading it. Raises InputError where the process dies, takes too much memory or time, or the
    library rejects the file.
    """
    memory = MEMORY_BYTES + MEMORY_PER_BYTE * len(data)
    seconds = CPU_SECONDS + int(CPU_SECONDS_PER_MB * len(data) / 1e6)
    # -I: neither the environment nor the current folder chooses what is imported
    script = Path(__file__).with_name("native_process.py")
    command = [sys.executable, "-I", str(script), str(memory), str(seconds)]
    # Rust prints where it gave up, which can take longer than the rest.
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=WALL_FACTOR * seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(name, f"does not come to an end in {error.timeout:.0f} s") from error
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()] or [""]
    if done.returncode == 1:  # an exception, its words at the end
        raise _failed(name, f"rejects it: {shown(said[-1].partition(': ')[2] or said[-1])}")
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _failed(name, f"takes more than {seconds} s to read it")
    raise _failed(name, f"dies of it within {memory >> 20:,} MB ({shown(said[0]) or done.returncode})")


@contextmanager
def no_panic(name: str) -> Iterator[None]:
    """Turn a panic of a native library, which Python takes for the end of the program, into an InputError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise _failed(name, f"gives up: {shown(str(error))}") from error


def _failed(name: str, why: str) -> InputError:
    return InputError(f"{name}: the tokenizers library {why}", path=name, hint=HINT)
