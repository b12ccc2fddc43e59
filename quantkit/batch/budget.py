"""How many tasks may run at once: none that together take more memory or disk than there is."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.batch.task import Needs, Task
from quantkit.machine import available_bytes, core_count, memory_limit_bytes
from quantkit.records import record

SHARE = 0.9  # of the memory: the rest is for everything else
MOST_JOBS = 4  # by default: what one task cannot use of many cores is little


@record
class Budget:
    """What all tasks that run at a time may take. None for the disk: it is not looked at."""

    jobs: int
    memory_bytes: int
    disk_bytes: int | None = None

    def __post_init__(self) -> None:
        assert self.jobs >= 1

    def ever(self, needs: Needs) -> bool:
        """Whether a task fits by itself."""
        return needs.memory_bytes <= self.memory_bytes and _fits(needs.disk_bytes, self.disk_bytes)

    def admits(self, running: Sequence[Needs], needs: Needs) -> bool:
        """Whether a task fits beside those that run. What those have written already counts once more: never too
        little room."""
        if len(running) >= self.jobs:
            return False
        memory = sum(each.memory_bytes for each in running) + needs.memory_bytes
        disk = sum(each.disk_bytes for each in running) + needs.disk_bytes
        return memory <= self.memory_bytes and _fits(disk, self.disk_bytes)

    def next(self, running: Sequence[Needs], waiting: Sequence[Task]) -> Task | None:
        """The first task that fits beside those that run; None where none does. With nothing running, the first that
        `ever` fits always does: nothing waits for ever."""
        return next((task for task in waiting if self.admits(running, task.needs)), None)


def _fits(needed: int, there: int | None) -> bool:
    return there is None or needed <= there


def jobs_here(jobs: int | None, threads: int | None, tasks: int) -> tuple[int, int]:
    """Tasks at a time and threads of each on this machine: as asked, else cores divided among at most four."""
    cores = core_count()
    many = jobs or max(min(cores // (threads or 1), MOST_JOBS, tasks), 1)
    return many, threads or max(cores // many, 1)


def memory_here(asked: int | None) -> int:
    """Bytes that all tasks together may take: as asked, else what is free now, at most 90 % of all."""
    return asked or min(int(memory_limit_bytes() * SHARE), available_bytes())
