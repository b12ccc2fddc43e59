"""The place `local`: tasks as processes of this machine, within its memory, its disk and its cores."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from quantkit.batch.budget import Budget, jobs_here, memory_here
from quantkit.batch.ledger import Ledger, where
from quantkit.batch.place import Failure, Outcome, Report, Setup, Stop
from quantkit.batch.task import Task
from quantkit.batch.worker import Work, run_task
from quantkit.records import record
from quantkit.report.text import size
from quantkit.storage import free_bytes

WAKE_S = 0.5


@record
class Local:
    """Runs tasks as children of this process. `keys` are those of the ledger, by task."""

    ledger: Ledger
    keys: Mapping[str, str]
    budget: Budget
    threads: int
    force: bool = False
    offline: bool = False
    name: str = "local"

    @property
    def room_bytes(self) -> int:
        return self.budget.memory_bytes

    def run(self, tasks: Sequence[Task], report: Report, stop: Stop) -> None:
        """Run all tasks, as many at a time as fit. Once `stop` says so, what runs is asked to save its work.

        A task that never fits is reported with exit 5 before any other begins.
        """
        waiting = []
        for each in tasks:
            if self.budget.ever(each.needs):
                waiting.append(each)
            else:
                report(self._too_large(each))
        running: dict[str, Task] = {}
        ended: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        now = Event()

        def work(task: Task) -> None:
            try:
                ended.put(run_task(self._work(task), stop, now))
            except BaseException as error:
                ended.put(error)
                raise

        with ThreadPoolExecutor(self.budget.jobs) as pool:
            try:
                while waiting or running:
                    while not stop() and (task := self.budget.next([t.needs for t in running.values()], waiting)):
                        waiting.remove(task)
                        running[task.id] = task
                        pool.submit(work, task)
                    if not running:
                        break  # stopped
                    try:
                        found = ended.get(timeout=WAKE_S)
                    except queue.Empty:
                        continue
                    outcome = _or_raise(found)
                    del running[outcome.task]
                    report(outcome)
            except BaseException:
                now.set()
                raise

    def _work(self, task: Task) -> Work:
        return Work(task, self.ledger, self.keys[task.id], self.threads, self.force, self.offline)

    def _too_large(self, task: Task) -> Outcome:
        needs, budget = task.needs, self.budget
        if needs.memory_bytes > budget.memory_bytes:
            what = f"needs {size(needs.memory_bytes)} of memory, {size(budget.memory_bytes)} are there"
        else:
            what = f"needs {size(needs.disk_bytes)} of disk, {size(budget.disk_bytes or 0)} are free"
        failure = Failure("resource", 5, what, "run it on a larger machine, or with fewer --threads")
        return Outcome(task.id, 5, 0.0, where(), failure)


def _or_raise(found: Outcome | BaseException) -> Outcome:
    if isinstance(found, BaseException):
        raise found
    return found


def open_place(setup: Setup) -> Local:
    """This machine, with what it has now."""
    jobs, threads = jobs_here(setup.jobs, setup.threads, len(setup.keys))
    budget = Budget(jobs, memory_here(setup.memory_bytes), free_bytes(setup.out))
    return Local(Ledger(setup.out), setup.keys, budget, threads, setup.force, setup.offline)
