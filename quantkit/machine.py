"""This machine: its cores, the memory that a process may use, and threads for both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")


def core_count() -> int:
    """Cores that this process may use: those it is bound to where the system says so, else all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit_bytes() -> int:
    """Memory this process may use: the machine's, or that of its control group or one around it if that is smaller."""
    said = [_read(folder / name).strip() for folder in _control_groups() for name in LIMITS]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(int(text) for text in said if text.isdigit())])


def available_bytes() -> int:
    """Memory that this machine could give a process now without taking it from others; all of it where the system does
    not say."""
    said = [line.split() for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith("MemAvailable:")]
    known = [1024 * int(words[1]) for words in said if len(words) > 1 and words[1].isdigit()]
    return min([memory_limit_bytes(), *known])


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
    """Peak resident memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
