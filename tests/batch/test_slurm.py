"""Tasks as jobs of Slurm, whose commands are stand-ins that really run the jobs; see fake_slurm.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch.batches import Heard, artifacts, expanded, leftovers, matrix
from commands import quantkit

from quantkit.batch import slurm
from quantkit.batch.ledger import Ledger
from quantkit.batch.place import Outcome, open_place
from quantkit.errors import NetworkError, UnsupportedError, UsageError

FAKE = Path(__file__).with_name("fake_slurm.py")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cluster whose commands are first on the PATH."""
    folder, tools = tmp_path / "cluster", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        tool = tools / name
        tool.write_text(f"#!{sys.executable} -S\n{FAKE.read_text()}")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setattr(slurm, "POLL_S", 0.1)
    monkeypatch.setattr(slurm, "SETTLE_S", 0.3)
    return folder


def calls(cluster: Path, name: str) -> list[list[str]]:
    lines = map(json.loads, (cluster / "calls").read_text().splitlines())
    return [line[1:] for line in lines if line[0] == name]


def never() -> bool:
    return False


@pytest.mark.slow
def test_a_matrix_is_made_by_jobs(cluster: Path, tmp_path: Path) -> None:
    """Real conversions, from the command line to the files: what is shown first is what is submitted."""
    more = '[slurm]\npartition = "cpu"\ntime = "1:00:00"\ncpus_per_task = 1\n'
    path = matrix(tmp_path / "a folder", 2, more=more)
    shown = quantkit("batch", "run", path, "--on", "slurm", "--dry-run", "--json")
    assert shown.status == 0, shown.stderr
    [script] = shown.json["scripts"]
    assert not (cluster / "calls").exists(), "nothing was asked of Slurm"
    made = quantkit("batch", "run", path, "--on", "slurm", "--json")
    assert made.status == 0, made.stderr
    assert made.json["states"]["done"] == 2
    assert len(artifacts(path.parent / "out")) == 2
    assert not leftovers(path.parent / "out")
    [number] = [each.stem for each in cluster.glob("*.sh")]
    assert (cluster / f"{number}.sh").read_text() == script
    directives = json.loads((cluster / f"{number}.json").read_text())["directives"]
    assert directives["--partition"] == "cpu"
    assert directives["--time"] == "1:00:00"
    assert directives["--array"] == "0-1"
    assert len(list((path.parent / "out" / ".quantkit-batch" / "slurm").glob("*_*.log"))) == 2
    again = quantkit("batch", "run", path, "--on", "slurm", "--json")
    assert again.status == 0
    assert len(calls(cluster, "sbatch")) == 1, "what is done is not submitted"


ENDS = {
    "OUT_OF_MEMORY": (["OUT_OF_MEMORY"], 5, 1, "ran out of memory"),
    "CANCELLED": (["CANCELLED"], 130, 1, "cancelled"),
    "TIMEOUT": (["TIMEOUT"] * 3, -15, 3, "its time was over"),
    "NODE_FAIL": (["NODE_FAIL"] * 3, -9, 3, "its node failed"),
    "FAILED": (["FAILED"], 1, 1, "without a record"),
    "WHAT_IS_THIS": (["WHAT_IS_THIS"], 1, 1, "without a record"),
}


def test_what_slurm_says_of_jobs_that_could_not(cluster: Path, tmp_path: Path) -> None:
    """Ends of the cluster's making are tried again, three times; those of the job's own are not."""
    tasks, told = expanded(matrix(tmp_path, len(ENDS)), place="slurm")
    states = {task.id: list(ends) for task, (ends, *_) in zip(tasks, ENDS.values(), strict=True)}
    (cluster / "ends.json").write_text(json.dumps(states))
    heard = Heard()
    open_place("slurm", told).run(tasks, heard, never)
    assert len(heard.exits) == len(tasks)
    for outcome, task in ((o, t) for o in heard for t in tasks if t.id == o.task):
        _, exit_code, attempts, words = ENDS[list(ENDS)[tasks.index(task)]]
        assert (outcome.exit, outcome.attempts) == (exit_code, attempts), outcome
        assert outcome.error is not None
        assert words in outcome.error.message
        assert outcome.error.hint


@pytest.mark.slow
def test_a_job_that_lost_its_node_goes_on_elsewhere(cluster: Path, tmp_path: Path) -> None:
    tasks, told = expanded(matrix(tmp_path, 1), place="slurm")
    (cluster / "ends.json").write_text(json.dumps({tasks[0].id: ["PREEMPTED", "COMPLETED"]}))
    heard = Heard()
    open_place("slurm", told).run(tasks, heard, never)
    assert heard.exits == {tasks[0].id: 0}
    assert heard[0].attempts == 2
    assert len(artifacts(told.out)) == 1


def test_a_stop_cancels_what_waits(cluster: Path, tmp_path: Path) -> None:
    tasks, told = expanded(matrix(tmp_path, 3), place="slurm")
    heard, start = Heard(), time.monotonic()
    open_place("slurm", told).run(tasks, heard, lambda: bool(list(cluster.glob("*.sh"))))
    assert set(heard.exits.values()) <= {0, 130}
    assert 130 in heard.exits.values()
    assert time.monotonic() - start < 60
    assert calls(cluster, "scancel")
    states = json.loads(next(cluster.glob("[0-9]*.json")).read_text())["states"]
    assert not set(states) & {"PENDING", "RUNNING"}


def test_jobs_of_a_run_that_was_killed_are_taken_over(cluster: Path, tmp_path: Path) -> None:
    """They are in the queue, and written down: the next run waits for them instead of submitting them twice."""
    tasks, told = expanded(matrix(tmp_path, 2), place="slurm")
    first = slurm._Run(told, Heard())
    (cluster / "ends.json").write_text(json.dumps({task.id: ["CANCELLED"] for task in tasks}))
    state = {"states": ["RUNNING", "RUNNING"], "directives": {}, "pids": {}}
    (cluster / "77.json").write_text(json.dumps(state))
    first.jobs = {f"77_{n}": slurm._Job(task, 1, None) for n, task in enumerate(tasks)}
    first._write_down()

    def after(heard: list[Outcome]) -> None:
        (cluster / "77.json").write_text(json.dumps({**state, "states": ["OUT_OF_MEMORY", "OUT_OF_MEMORY"]}))

    looked = iter(range(100))

    def stop() -> bool:
        if next(looked) == 1:
            after([])
        return False

    heard = Heard()
    open_place("slurm", told).run(tasks, heard, stop)
    assert set(heard.exits.values()) == {5}
    assert not calls(cluster, "sbatch") if (cluster / "calls").exists() else True


@pytest.mark.parametrize("how", ["silent", "late", "killed", "ended", "hangs"])
def test_an_array_whose_number_nobody_knows_is_not_submitted_twice(
    how: str, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch took it, and did not say so; or whoever asked was killed before it could hear. It is found by its name,
    also where it comes into the queue a moment later, and however long the paths of its command line are."""
    path = matrix(tmp_path / ("long" * 25), 2)
    (cluster / "deaf").write_text(how)
    answer_s = slurm.ANSWER_S
    if how == "hangs":
        monkeypatch.setattr(slurm, "ANSWER_S", 3.0)
    if how == "killed":
        again = [sys.executable, "-m", "quantkit", "batch", "run", path, "--on", "slurm", "--quiet"]
        done = subprocess.run(again, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    tasks, told = expanded(path, place="slurm")
    if how != "killed":
        with pytest.raises(NetworkError, match="ended with -9" if how == "ended" else "timed out"):
            open_place("slurm", told).run(tasks, Heard(), never)
    (cluster / "deaf").unlink()
    monkeypatch.setattr(slurm, "ANSWER_S", answer_s)
    place = told.out / ".quantkit-batch" / "slurm" / "jobs.json"
    looked = iter(range(1000))

    def stop() -> bool:
        known, asked = slurm._submitted(place)
        if len(known) == 2 and not asked and next(looked) > 1:
            [number] = [path for path in cluster.glob("[0-9]*.json")]
            number.write_text(json.dumps(json.loads(number.read_text()) | {"states": ["OUT_OF_MEMORY"] * 2}))
        return False

    heard = Heard()
    open_place("slurm", told).run(tasks, heard, stop)
    assert heard.exits == dict.fromkeys((task.id for task in tasks), 5)
    assert len(calls(cluster, "sbatch")) == 1


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_an_array_that_sbatch_never_took_is_submitted_again(
    how: str, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where sbatch said so; where it did not hear an answer, once the queue had time to have it."""
    monkeypatch.setattr(slurm, "LATE_S", 0.5)
    tasks, told = expanded(matrix(tmp_path, 1), place="slurm")
    (cluster / "ends.json").write_text(json.dumps({tasks[0].id: ["OUT_OF_MEMORY"]}))
    place, jobs = open_place("slurm", told), told.out / ".quantkit-batch" / "slurm" / "jobs.json"
    (cluster / ("down" if how == "refused" else "deaf")).write_text(how)
    with pytest.raises(NetworkError, match="Unable to contact" if how == "refused" else "timed out"):
        place.run(tasks, Heard(), never)
    assert bool(slurm._submitted(jobs)[1]) is (how == "lost"), "it may have one"
    (cluster / ("down" if how == "refused" else "deaf")).unlink()
    heard = Heard()
    place.run(tasks, heard, never)
    assert heard.exits == {tasks[0].id: 5}
    assert slurm._submitted(jobs) == ({}, {})
    named = [call for call in calls(cluster, "squeue") if any(word.startswith("--name=") for word in call)]
    assert bool(named) is (how == "lost")


def test_jobs_of_tasks_that_are_not_of_this_run_stay_known(cluster: Path, tmp_path: Path) -> None:
    """As of `retry` while others are in the queue: the next run waits for them."""
    tasks, told = expanded(matrix(tmp_path, 2), place="slurm")
    first = slurm._Run(told, Heard())
    (cluster / "77.json").write_text(json.dumps({"states": ["RUNNING"], "directives": {}, "pids": {}}))
    first.jobs = {"77_0": slurm._Job(tasks[0], 1, None)}
    first._write_down()
    (cluster / "ends.json").write_text(json.dumps({tasks[1].id: ["OUT_OF_MEMORY"]}))
    open_place("slurm", told).run(tasks[1:], Heard(), never)
    known, _ = slurm._submitted(told.out / ".quantkit-batch" / "slurm" / "jobs.json")
    assert {job: entry[0] for job, entry in known.items()} == {"77_0": tasks[0].id}


@pytest.mark.parametrize("patience", [60.0, 0.0])
def test_a_controller_that_is_away_for_a_while_is_asked_again(
    patience: float, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "SILENT_S", patience)
    tasks, told = expanded(matrix(tmp_path, 1), place="slurm")
    (cluster / "ends.json").write_text(json.dumps({tasks[0].id: ["OUT_OF_MEMORY"]}))
    looked = iter(range(1000))

    def stop() -> bool:
        if (number := next(looked)) in (0, 6):
            (cluster / "down").touch() if number == 0 else (cluster / "down").unlink()
        return False

    heard = Heard()
    place = open_place("slurm", told)
    if patience:
        place.run(tasks, heard, stop)
        assert heard.exits == {tasks[0].id: 5}
        assert next(looked) > 6
    else:
        with pytest.raises(NetworkError, match="Unable to contact"):
            place.run(tasks, heard, stop)
        assert slurm._submitted(told.out / ".quantkit-batch" / "slurm" / "jobs.json")[0], "the next run waits for it"


def test_no_slurm_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = matrix(tmp_path, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = quantkit("batch", "run", path, "--on", "slurm", "--json")
    assert done.status == 4
    assert "sbatch, squeue, scancel" in done.stdout + done.stderr
    assert not (tmp_path / "out").exists() or not artifacts(tmp_path / "out")


def test_a_controller_that_does_not_answer_is_said_first(cluster: Path, tmp_path: Path) -> None:
    _, told = expanded(matrix(tmp_path, 1), place="slurm")
    (cluster / "down").touch()
    with pytest.raises(NetworkError, match="Unable to contact slurm controller"):
        open_place("slurm", told)


@pytest.mark.parametrize("table", ['partiton = "x"', "time = 1.5", 'time = "a b"', "time = true", "mem = []"])
def test_a_table_that_is_wrong_is_said_first(table: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slurm"):
        expanded(matrix(tmp_path, 1, more=f"[slurm]\n{table}\n"))


def test_without_accounts_the_record_of_a_job_is_enough(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, told = expanded(matrix(tmp_path, 1), place="slurm")
    (tmp_path / "tools" / "sacct").unlink()
    run_ = slurm._Run(told, Heard())
    job = slurm._Job(tasks[0], 1, run_._time(tasks[0]))
    real = time.time()
    with monkeypatch.context() as node:
        node.setattr(time, "time", lambda: real - 3600)  # its clock is an hour behind
        Ledger(told.out).settle(Outcome(tasks[0].id, 0, 1.0, "node:1"), told.keys[tasks[0].id], ())
    end = run_._end(job, "")
    assert end is not None
    assert (end[0].exit, end[1]) == (0, False)
    stale = slurm._Job(tasks[0], 2, run_._time(tasks[0]))
    assert run_._end(stale, "") is None, "a record of before says nothing of this job"


def test_unsupported_is_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = expanded(matrix(tmp_path, 1), place="slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError) as caught:
        open_place("slurm", told)
    assert "--on local" in str(caught.value.hint)
