"""Which tasks a command begins, by what is recorded of each; and the disk that is still needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from commands import quantkit
from matrices import written

from quantkit.batch import local
from quantkit.batch.faults import Faults
from quantkit.batch.ledger import FOLDER, Ledger, TaskRecord, has_ended
from quantkit.batch.place import Failure, Outcome, Report
from quantkit.batch.task import Needs, Task
from quantkit.batch.worker import Work, command
from quantkit.pipeline import batch
from quantkit.pipeline.batch import BatchRequest, expand, run_batch
from quantkit.pipeline.batch_plan import PlannedFiles, PlannedTask
from quantkit.pipeline.batch_records import _sums
from quantkit.pipeline.batch_room import needs_left, require_own_outputs, require_room
from quantkit.storage.owner import this_process

EXITS = {"passes": 9, "stays": 3, "several": 10, "stopped": 130, "killed": -9}
NAMES = (*EXITS, "died", "runs", "new", "other")
RECIPES = ", ".join(f'{{to = "fp8", name = "{name}"}}' for name in NAMES)
MATRIX = f'models = ["alpha"]\nrecipes = [{RECIPES}]\n[batch]\nverify = false\n'


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A matrix with records of all kinds, and the tasks that a command begins: children do nothing."""
    path = written(tmp_path, MATRIX, ("alpha",))
    found = expand(BatchRequest(path), Faults())
    for name, exit_code in EXITS.items():
        parts = (Failure("busy", 6, "m", recipe="r"),) if exit_code == 10 else ()
        outcome = Outcome(f"alpha.{name}", exit_code, 1.0, "here:1", Failure("x", exit_code, "m"), parts)
        found.ledger.settle(outcome, found.keys[f"alpha.{name}"], ())
    gone = replace(this_process(), started="1").encode().decode()
    for name, owner in (("died", gone), ("runs", this_process().encode().decode()), ("other", gone)):
        key = "another" if name == "other" else found.keys[f"alpha.{name}"]
        found.ledger._write(TaskRecord(f"alpha.{name}", key, "here:1", 0.0, owner=owner))
    begun: list[str] = []

    def run(work: Work, stop: object, now: object) -> Outcome:
        begun.append(work.task.id.removeprefix("alpha."))
        outcome = Outcome(work.task.id, 3, 0.0, "here:2", Failure("input", 3, "m"))
        work.ledger.settle(outcome, work.key, ())
        return outcome

    monkeypatch.setattr(local, "run_task", run)
    return path, begun


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run"], {"passes", "several", "stopped", "killed", "died", "runs", "new", "other"}),
        (["run", "--recheck"], {*EXITS, "died", "runs", "new", "other"}),
        (["retry"], {"passes", "stays", "several", "killed"}),
    ],
)
def test_which_tasks_are_begun(words: list[str], expected: set[str], recorded: tuple[Path, list[str]]) -> None:
    path, begun = recorded
    shown = quantkit("batch", *words, path, "--on", "slurm", "--dry-run", "--json").json["scripts"]
    lines = [line for script in shown for line in script.splitlines() if line.startswith("set -- ")]
    assert sorted(" ".join(lines).replace("set --", "").replace("alpha.", "").split()) == sorted(expected)
    said = quantkit("batch", *words, path)
    assert said.status == 10
    assert sorted(begun) == sorted(expected)


def test_states_are_told(recorded: tuple[Path, list[str]]) -> None:
    path, _ = recorded
    states = {task["id"].removeprefix("alpha."): task["state"] for task in
              quantkit("batch", "status", path, "--json").json["tasks"]}  # fmt: skip
    assert states == {
        "passes": "failed", "stays": "failed", "several": "failed", "killed": "failed", "stopped": "interrupted",
        "died": "interrupted", "runs": "running", "new": "waiting", "other": "waiting",
    }  # fmt: skip


def test_what_retry_leaves_does_not_decide_how_it_ends(
    recorded: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older task that was stopped is no interruption of this run."""
    path, _ = recorded

    def done(work: Work, stop: object, now: object) -> Outcome:
        outcome = Outcome(work.task.id, 0, 0.0, "here:2")
        work.ledger.settle(outcome, work.key, ())
        return outcome

    monkeypatch.setattr(local, "run_task", done)
    assert quantkit("batch", "retry", path).status == 0


class Refusing:
    """A place that begins no task."""

    room_bytes = None
    name = "refusing"

    def run(self, tasks: Sequence[Task], report: Report, stop: object) -> None:
        for task in tasks:
            report(Outcome(task.id, 9, 0.0, "here:3", Failure("network", 9, "gone")))


def test_a_failure_that_only_the_place_knows_is_one_whatever_was_before(
    recorded: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a record of other inputs ended with the same code."""
    path, _ = recorded
    found = expand(BatchRequest(path), Faults())
    found.ledger.settle(Outcome("alpha.other", 9, 1.0, "here:1", Failure("network", 9, "before")), "another", ())
    monkeypatch.setattr(batch, "open_place", lambda name, setup: Refusing())
    result = run_batch(BatchRequest(path, recheck=True, summary=False))
    assert {row.task.id.removeprefix("alpha.") for row in result.failed} == set(NAMES)
    assert {row.failures[0].message for row in result.failed} >= {"gone"}


@pytest.mark.skipif(not this_process().started, reason="this system does not say when a process began")
def test_processes_are_told_by_more_than_their_numbers() -> None:
    here = this_process()
    assert not has_ended(here.encode().decode())
    assert has_ended(replace(here, started="1").encode().decode()), "the number was given again"
    assert has_ended(replace(here, pid=2**22 + 1).encode().decode())
    assert not has_ended(replace(here, host="another-machine", started="1").encode().decode())
    for nonsense in ("", "nonsense", "{", here.encode().decode().replace(str(here.pid), "9" * 5000), "\udc80"):
        assert not has_ended(nonsense)


def test_what_computes_otherwise_is_not_done(recorded: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = recorded
    before = expand(BatchRequest(path), Faults()).keys
    monkeypatch.setattr("quantkit.batch.ledger.NUMERICS", 99)
    after = expand(BatchRequest(path), Faults()).keys
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_what_a_child_is_told(tmp_path: Path) -> None:
    task = Task("a.b", "a", ("b",), ("convert", "x"), tmp_path)
    words = command(Work(task, Ledger(tmp_path), "k", 3, True, True))
    assert words[3:5] == ["convert", "x"]
    assert {"--json", "--quiet", "--threads=3", "--force", "--offline", "--no-step-summary"} <= set(words)
    assert f"--events={tmp_path / FOLDER / 'events' / 'a.b.jsonl'}" in words
    plain = command(Work(task, Ledger(tmp_path), "k"))
    assert not {"--force", "--offline"} & set(plain)


def planned(out: Path, name: str, *sizes: int) -> PlannedTask:
    files = tuple(PlannedFiles("r", "model", (out / f"{name}{n}",), size, 1) for n, size in enumerate(sizes))
    return PlannedTask(Task(name, "m", ("r",), (), out, needs=Needs(1, sum(sizes))), files)


def test_the_disk_that_is_left_to_fill(tmp_path: Path) -> None:
    """Finished files and unfinished work count as there, each once."""
    tasks = [planned(tmp_path / "m", "a", 10_000, 20_000), planned(tmp_path / "m", "b", 50_000)]
    assert [task.needs.disk_bytes for task in needs_left(tasks)] == [30_000, 50_000]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a0").write_bytes(bytes(10_000))
    (tmp_path / "m" / "b0").write_bytes(bytes(49_999))  # something else
    assert [task.needs.disk_bytes for task in needs_left(tasks)] == [20_000, 50_000]
    run = tmp_path / "m" / ".quantkit-0123456789ab" / "run-1"
    run.mkdir(parents=True)
    (run / "a1").write_bytes(b"x" * 40_960)
    there = (run / "a1").stat().st_blocks * 512
    assert [task.needs.disk_bytes for task in needs_left(tasks)] == [0, 50_000 - (there - 20_000)]


def test_room_is_asked_of_all_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.pipeline.batch_room.free_bytes", lambda folder: 100)
    tasks = [planned(tmp_path, "a", 60), planned(tmp_path, "b", 40)]
    faults = Faults()
    require_room(tasks, 1, tmp_path, faults)
    assert faults.found == []
    require_room([*tasks, planned(tmp_path, "c", 1)], None, tmp_path, faults)
    [error] = faults.found
    assert "101 bytes needed for 3 tasks, 100 free (1 short): it holds 2 of them" in error.message


def test_an_encoder_may_be_written_by_two_tasks_and_nothing_else(tmp_path: Path) -> None:
    one, two = planned(tmp_path, "a", 1), planned(tmp_path, "b", 1)
    beside = PlannedFiles("mmproj-f16", "mmproj", (tmp_path / "mmproj",), 5, 1)
    faults = Faults()
    both = [PlannedTask(each.task, (*each.artifacts, beside)) for each in (one, two)]
    require_own_outputs(both, faults)
    assert faults.found == []
    require_own_outputs([one, PlannedTask(two.task, one.artifacts)], faults)
    assert len(faults.found) == 1


@pytest.mark.parametrize(
    "index",
    [{"artifacts": None}, {"artifacts": 5}, {"artifacts": [1, None, {}, {"files": None}, {"files": [3, {"path": 1}]}]}],
    ids=str,
)
def test_a_damaged_index_lists_nothing(index: dict[str, object]) -> None:
    assert _sums(index) == {}
