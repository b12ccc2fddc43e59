"""A process that has what Windows has, as far as Linux can be made to: run as `python windows.py < commands.json`.

Modules and calls that Windows lacks are gone, folders have no descriptors, an open file is neither renamed nor removed,
renames refuse to replace, links are not made, locks are those of `msvcrt`. What is left of the system is used as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess  # noqa: F401 - asks for msvcrt when it is imported, and would then believe it
import sys
import sysconfig
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf  # noqa: F401 - libraries look at the system when they are imported: theirs is the real one
import huggingface_hub._snapshot_download
import huggingface_hub.file_download
import huggingface_hub.hf_api  # noqa: F401
import jinja2.sandbox  # noqa: F401
import numba  # noqa: F401
import numpy as np
import rich.console  # noqa: F401
import safetensors.numpy  # noqa: F401
import tokenizers  # noqa: F401
import typer  # noqa: F401

GONE = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "posix", "pty", "syslog")
CALLS = (
    "preadv", "pread", "pwrite", "readv", "writev", "pwritev", "geteuid", "getuid", "getgid", "getegid", "uname",
    "sysconf", "statvfs", "fstatvfs", "posix_fallocate", "posix_fadvise", "sched_getaffinity", "mkfifo", "chown",
    "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_DIRECTORY", "O_TMPFILE", "fork",
)  # fmt: skip
LK_NBLCK = 2


def take_away() -> None:
    """Make this process like one on Windows; before quantkit is imported."""
    sysconfig.get_config_vars()  # of the real system, for whoever asks
    usage, statvfs = type(shutil.disk_usage("/")), os.statvfs

    def disk_usage(path: str | os.PathLike[str]) -> object:
        facts = statvfs(path)
        return usage(facts.f_blocks * facts.f_frsize, 0, facts.f_bavail * facts.f_frsize)

    shutil.disk_usage = disk_usage  # type: ignore[assignment]
    for name in GONE:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in CALLS:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("SIGKILL", "SIGXCPU"):
        delattr(signal, name)
    sys.platform = "win32"
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    os.supports_dir_fd = set()  # type: ignore[attr-defined]
    for name in ("open", "stat", "unlink", "rmdir", "mkdir", "rename", "replace", "link"):
        setattr(os, name, without_descriptors(name, getattr(os, name)))
    sys.modules["msvcrt"] = locks()


def open_here(path: str | os.PathLike[str]) -> bool:
    """Whether this process has a file open."""
    there = os.path.realpath(path)
    links = Path("/proc/self/fd").iterdir()
    return any(os.path.realpath(link) == there for link in links if os.path.lexists(link))


def without_descriptors(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        folders = {k for k, v in options.items() if k.endswith("dir_fd") and v is not None}
        if folders:
            raise NotImplementedError(f"{folders} unavailable on this platform")
        if name == "open" and Path(args[0]).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(args[0]))
        if name in ("rename", "replace", "unlink") and Path(args[0]).is_file() and open_here(args[0]):
            raise PermissionError(errno.EACCES, "it is being used by another process", os.fspath(args[0]))
        if name == "rename" and os.path.lexists(args[1]):
            raise FileExistsError(errno.EEXIST, "it exists already", os.fspath(args[1]))
        if name == "link":
            raise OSError(errno.EINVAL, "the volume has no links", os.fspath(args[0]))
        return call(*args, **options)

    called.__name__ = name
    return called


def locks() -> types.ModuleType:
    """A module like msvcrt, whose locks are those of POSIX on ranges: they keep other processes out."""
    found = types.ModuleType("msvcrt")
    take, non_blocking = fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB

    def locking(fd: int, mode: int, nbytes: int) -> None:
        assert mode == LK_NBLCK
        take(fd, non_blocking, nbytes, os.lseek(fd, 0, os.SEEK_CUR))

    found.locking, found.LK_NBLCK = locking, LK_NBLCK  # type: ignore[attr-defined]
    return found


def every_module() -> int:
    """Import all of quantkit that needs no extra; returns how many modules that were."""
    from importlib import import_module

    import quantkit

    root = Path(quantkit.__file__).parent
    names = [".".join(("quantkit", *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")]
    for name in sorted(names):
        if not name.endswith("__main__"):
            import_module(name.removesuffix(".__init__"))
    return len(names)


def seams(folder: Path) -> dict[str, Any]:
    """What the fallbacks do, looked at one by one."""
    from quantkit.machine import core_count, memory_limit_bytes, peak_rss_bytes
    from quantkit.platforms import FOLDERS_OPEN, LIMITS_PROCESSES, MOVES_OPEN_FILES, is_mine
    from quantkit.storage.scratch import scratch_file

    facts = {"folders": FOLDERS_OPEN, "moves": MOVES_OPEN_FILES, "limits": LIMITS_PROCESSES}
    mapped = scratch_file(folder, 3 << 20) if hasattr(os, "O_TEMPORARY") else None
    return {
        **facts,
        "cores": core_count() >= 1,
        "memory": memory_limit_bytes() > 0,
        "peak": peak_rss_bytes(),
        "mine": is_mine(folder.stat()),
        "mapped": mapped is None or bool((np.frombuffer(mapped, np.uint8) == 0).all()),
    }


def main() -> None:
    work = json.load(sys.stdin)
    if work.get("look"):
        import distributed  # noqa: F401 - as above
        import torch  # noqa: F401
    fork, wait, end = os.fork, os.waitpid, os.kill
    take_away()
    # signals end a process of Windows at once
    os.kill = lambda pid, number: end(pid, 9)  # type: ignore[assignment]
    from quantkit.cli.main import main as quantkit

    answer: dict[str, Any] = {}
    if work.get("look"):
        answer["seams"] = seams(Path(work["look"]))
        answer["modules"] = every_module()

    def run(command: list[str]) -> dict[str, Any]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = quantkit(command)
        return {"status": status, "stdout": out.getvalue(), "stderr": err.getvalue()}

    def ended(command: list[str], fault: str = "") -> int:
        """How a command ends in a process of its own: its exit status, or minus the signal."""
        pid = fork()
        if pid == 0:
            os.environ |= {"QUANTKIT_FAULT": fault} if fault else {}
            os._exit(run(command)["status"])
        return os.waitstatus_to_exitcode(wait(pid, 0)[1])

    answer["outcomes"] = [run(command) for command in work["commands"]]
    if "kill" in work:
        command = work["kill"]["command"]
        answer["killed"] = [ended(command, f"kill:{at}") for at in work["kill"]["at"]]
    if "busy" in work:
        from quantkit.storage.claim import locked_folder
        from quantkit.storage.disk import Disk

        with locked_folder(Disk(), Path(work["busy"]["folder"])):
            answer["busy"] = ended(work["busy"]["command"])
        answer["free"] = ended(work["busy"]["command"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
