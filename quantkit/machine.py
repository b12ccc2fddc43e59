"""This machine: its cores, the memory that a process may use, and threads for both."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from quantkit.platforms import resource

CONTROL_GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")
USED = ("memory.current", "memory.usage_in_bytes")  # of the same versions
CACHED = ("inactive_file", "active_file")  # what the system takes back when it is needed


def core_count() -> int:
    """Cores that this process may use: those it is bound to where the system says so, else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit_bytes() -> int:
    """Memory this process may use: the machine's, or that of its control group or one around it if that is smaller."""
    said = [_read(folder / name).strip() for folder in _control_groups() for name in LIMITS]
    return min([_machine_bytes(), *(int(text) for text in said if text.isdigit())])


def available_bytes() -> int:
    """Memory that this machine, and its control group, could give a process now without taking it from others; all of
    it where the system does not say."""
    said = [line.split() for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith("MemAvailable:")]
    known = [1024 * int(words[1]) for words in said if len(words) > 1 and words[1].isdigit()]
    return min([memory_limit_bytes(), *known, *_left_in_groups()])


def give_back_memory() -> None:
    """Have the system get back what was freed: glibc keeps what lies between pieces that are in use, which is half a
    gigabyte and more after thousands of tensors of some megabytes."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None in other C libraries."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


def _left_in_groups() -> Iterator[int]:
    """What each control group of this process has not used; pages of files count as not used."""
    for folder in _control_groups():
        for limit, usage in zip(LIMITS, USED, strict=True):
            most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                facts = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
                cached = sum(int(facts.get(f"total_{name}", facts.get(name, 0))) for name in CACHED)
                yield max(int(most) - max(int(used) - cached, 0), 0)


def _control_groups() -> Iterator[Path]:
    """The folders of this process's control groups and of all around them, of both versions (man 7 cgroups)."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CONTROL_GROUPS / ("memory" if controllers else "")
        group = root / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))
    yield from (CONTROL_GROUPS, CONTROL_GROUPS / "memory")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def worker_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. However the context is left, what has not begun is dropped, what has is waited for."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def peak_rss_bytes() -> int:
    """Peak resident memory of this process; 0 where the system does not say.

    What getrusage(2) counts begins on Linux with that of the process it was started by: there /proc is asked first.
    """
    said = _read(Path("/proc/self/status")) if sys.platform == "linux" else ""
    if found := re.search(r"^VmHWM:\s*(\d+) kB$", said, re.MULTILINE):
        return int(found[1]) * 1024
    if resource is not None:
        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    used = _ProcessMemory(size=ctypes.sizeof(_ProcessMemory))
    _ask_windows("GetCurrentProcess", "K32GetProcessMemoryInfo", used, used.size)
    return int(used.peak)


def _machine_bytes() -> int:
    """Memory of the machine; without end where the system does not say."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    status = _MachineMemory(size=ctypes.sizeof(_MachineMemory))
    _ask_windows(None, "GlobalMemoryStatusEx", status)
    return int(status.total) or sys.maxsize


class _MachineMemory(ctypes.Structure):
    """MEMORYSTATUSEX"""

    _fields_ = (("size", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total", ctypes.c_uint64),
                ("others", ctypes.c_uint64 * 6))  # fmt: skip


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS"""

    _fields_ = (("size", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("peak", ctypes.c_size_t),
                ("others", ctypes.c_size_t * 7))  # fmt: skip


def _ask_windows(of: str | None, function: str, answer: ctypes.Structure, *more: int) -> None:
    """Have a function of kernel32 fill in `answer`, about the handle that `of` gives; left as it is elsewhere."""
    kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    if kernel is not None:
        about = [ctypes.c_void_p(getattr(kernel, of)())] if of else []
        getattr(kernel, function)(*about, ctypes.byref(answer), *more)
