"""Who holds a lease: a process of a machine, and whether it has certainly ended.

A pid says nothing by itself. Another machine has the same ones, a container has its own, and a number is given again.
So an owner is known by host, boot, pid namespace, pid and the moment at which the process began; only where all of it
can be looked at is a process said to have ended, or where the machine was started anew since. Of all others the age of
the lease decides.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

from quantkit.platforms import may_run
from quantkit.records import record

BOOT = Path("/proc/sys/kernel/random/boot_id")
SPACE = Path("/proc/self/ns/pid")
STATE, STARTED = 0, 19  # proc_pid_stat(5), counted from the field behind the name: 3 and 22
ENDED = frozenset("ZXx")
NO_NAMES = ("", "localhost")  # hosts that several machines are called
TEXT = 200  # characters of a name that are kept


@record
class Owner:
    """A process. `boot`, `space` and `started` are empty on systems that do not say them."""

    host: str
    pid: int
    boot: str = ""
    space: str = ""
    started: str = ""

    def encode(self) -> bytes:
        """A line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def has_ended(self) -> bool:
        """Whether the process is certainly gone; False for one that cannot be looked at from here."""
        here = this_process()
        if self.host != here.host or self.pid <= 0:
            return False
        if self.boot != here.boot:
            return bool(self.boot and here.boot) and self.host.partition(".")[0] not in NO_NAMES
        if self.space != here.space:
            return False
        if self.started:
            return _started(self.pid) != self.started
        return not may_run(self.pid)


def this_process() -> Owner:
    """The process that asks."""
    return Owner(platform.node(), os.getpid(), _text(BOOT), _space(), _started(os.getpid()))


def read_owner(data: bytes) -> Owner | None:
    """The owner that a lease names; None when it names none: half written, or not ours."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(Owner.__dataclass_fields__):
        return None
    words = [found[name] for name in ("host", "boot", "space", "started")]
    if not all(isinstance(word, str) and len(word) <= TEXT for word in words) or type(found["pid"]) is not int:
        return None
    return Owner(**found)


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot; "" for one that has ended, or where nothing says so."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if len(fields) <= STARTED or fields[STATE] in ENDED else fields[STARTED]


def _space() -> str:
    try:
        return str(SPACE.readlink())
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
