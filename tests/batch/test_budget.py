"""What runs together never takes more than there is, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.batch import budget, local
from quantkit.batch.budget import Budget, jobs_here, memory_here
from quantkit.batch.ledger import Ledger
from quantkit.batch.local import Local
from quantkit.batch.place import Outcome
from quantkit.batch.task import Needs, Task
from quantkit.batch.worker import Work
from quantkit.machine import available_bytes, core_count, memory_limit_bytes

needs = st.builds(Needs, st.integers(0, 12), st.integers(0, 12))
budgets = st.builds(Budget, st.integers(1, 4), st.integers(0, 12), st.none() | st.integers(0, 12))


def task(number: int, taken: Needs) -> Task:
    return Task(f"t{number}", "m", ("r",), ("convert",), Path(), needs=taken)


@given(budgets, st.lists(needs, max_size=12), st.randoms(use_true_random=False))
def test_no_more_than_the_budget_runs_together_and_all_that_ever_fits_runs(
    given_budget: Budget, wanted: list[Needs], chance: object
) -> None:
    waiting = [task(n, taken) for n, taken in enumerate(wanted) if given_budget.ever(taken)]
    running: list[Task] = []
    ended = 0
    while waiting or running:
        while (chosen := given_budget.next([each.needs for each in running], waiting)) is not None:
            waiting.remove(chosen)
            running.append(chosen)
            assert len(running) <= given_budget.jobs
            assert sum(each.needs.memory_bytes for each in running) <= given_budget.memory_bytes
            if given_budget.disk_bytes is not None:
                assert sum(each.needs.disk_bytes for each in running) <= given_budget.disk_bytes
        assert running, "nothing runs and something waits"
        running.pop(chance.randrange(len(running)))  # type: ignore[attr-defined]
        ended += 1
    assert ended == sum(map(given_budget.ever, wanted))


@dataclass
class Machine:
    """Stands in for children: how much runs at a time, and what becomes of each."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    running: dict[str, Needs] = field(default_factory=dict)
    peak: int = 0
    jobs: int = 0
    begun: list[str] = field(default_factory=list)

    def run(self, work: Work, stop: object, now: object) -> Outcome:
        with self.lock:
            self.running[work.task.id] = work.task.needs
            self.begun.append(work.task.id)
            self.peak = max(self.peak, sum(each.memory_bytes for each in self.running.values()))
            self.jobs = max(self.jobs, len(self.running))
        time.sleep(0.001)
        with self.lock:
            del self.running[work.task.id]
        return Outcome(work.task.id, 0, 0.001, "here")


@settings(max_examples=15, deadline=None)
@given(budgets, st.lists(needs, max_size=15))
def test_the_place_keeps_the_budget_and_reports_every_task_once(given_budget: Budget, wanted: list[Needs]) -> None:
    machine, told = Machine(), []
    tasks = [task(n, taken) for n, taken in enumerate(wanted)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_task", machine.run)
        place = Local(Ledger(Path("nowhere")), {each.id: "" for each in tasks}, given_budget, 1)
        place.run(tasks, told.append, lambda: False)
    assert sorted(each.task for each in told) == sorted(each.id for each in tasks)
    assert machine.peak <= given_budget.memory_bytes
    assert machine.jobs <= given_budget.jobs
    too_large = {each.task for each in told if each.exit == 5}
    assert too_large == {each.id for each in tasks if not given_budget.ever(each.needs)}
    assert sorted(machine.begun) == sorted({each.id for each in tasks} - too_large)


def test_once_it_is_stopped_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, told = Machine(), []
    monkeypatch.setattr(local, "run_task", machine.run)
    tasks = [task(n, Needs(1, 1)) for n in range(20)]
    place = Local(Ledger(Path("nowhere")), {each.id: "" for each in tasks}, Budget(2, 100), 1)
    place.run(tasks, told.append, lambda: len(told) >= 3)
    assert 3 <= len(told) <= 5
    assert sorted(machine.begun) == sorted(each.task for each in told)


def test_what_a_worker_raises_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(work: Work, stop: object, now: object) -> Outcome:
        raise OSError(5, "gone")

    monkeypatch.setattr(local, "run_task", broken)
    tasks = [task(n, Needs()) for n in range(3)]
    place = Local(Ledger(Path("nowhere")), {each.id: "" for each in tasks}, Budget(1, 100), 1)
    with pytest.raises(OSError, match="gone"):
        place.run(tasks, lambda outcome: None, lambda: False)


@pytest.mark.parametrize(
    ("cores", "jobs", "threads", "tasks", "found"),
    [
        (2, None, None, 10, (2, 1)), (64, None, None, 10, (4, 16)), (64, None, None, 1, (1, 64)),
        (8, None, 8, 10, (1, 8)), (8, 3, None, 10, (3, 2)), (1, 4, None, 10, (4, 1)), (2, None, None, 0, (1, 2)),
    ],
)  # fmt: skip
def test_cores_are_divided(
    cores: int, jobs: int | None, threads: int | None, tasks: int, found: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(budget, "core_count", lambda: cores)
    assert jobs_here(jobs, threads, tasks) == found


def test_memory_is_what_is_free_and_never_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_bytes() <= memory_limit_bytes()
    assert core_count() >= 1
    assert memory_here(5) == 5
    monkeypatch.setattr(budget, "available_bytes", lambda: 10**18)
    assert memory_here(None) == int(memory_limit_bytes() * 0.9)
    monkeypatch.setattr(budget, "available_bytes", lambda: 7)
    assert memory_here(None) == 7
