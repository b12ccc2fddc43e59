"""Whatever ends a scheduler or a child, the same command goes on: the same bytes, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import quantkit
from matrices import written
from test_batch_run import hashes, records

from quantkit.batch import lifeline
from quantkit.batch.ledger import Ledger
from quantkit.batch.place import Failure, Outcome
from quantkit.batch.task import Task
from quantkit.batch.worker import Work, may_pass, run_task

MATRIX = 'models = ["alpha", "beta"]\nrecipes = ["bf16", "f16"]\n[batch]\nverify = false\n'
SAID = '{"schema": "quantkit.error/1", "error": {"code": "input", "exit": 3, "message": "m"}}'
DEADLINE_S = 90.0


def until(what: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def told(out: Path, task: str) -> list[str]:
    """The events of a task, by their names."""
    path = out / ".quantkit-batch" / "events" / f"{task}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["event"] for line in lines if line.endswith("}")]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in found for word in path.read_text().split()]


def there(pid: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def begun(path: Path, *more: str) -> subprocess.Popen[str]:
    """A scheduler of its own, one task at a time."""
    command = [sys.executable, "-m", "quantkit", "batch", "run", str(path), "--jobs", "1", "--json", *more]
    listen = signal.default_int_handler
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, listen) and None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run makes."""
    folder = tmp_path_factory.mktemp("whole")
    assert quantkit("batch", "run", written(folder, MATRIX)).status == 0
    return hashes(folder / "out")


@pytest.mark.parametrize("moment", ["RunStarted", pytest.param("Published", marks=pytest.mark.slow), "second"])
def test_a_killed_scheduler_leaves_nobody_behind_and_the_next_goes_on(
    moment: str, expected: dict[str, str], tmp_path: Path
) -> None:
    path, out = written(tmp_path, MATRIX), tmp_path / "out"
    scheduler = begun(path)
    if moment == "second":  # the first task is done
        until(lambda: "RunStarted" in told(out, "beta.gguf"))
    else:
        until(lambda: moment in told(out, "alpha.gguf"))
    orphans = children(scheduler.pid)
    os.kill(scheduler.pid, signal.SIGKILL)
    scheduler.wait()
    done = [name for name, record in records(out).items() if record["exit"] == 0]
    assert ("alpha.gguf" in done) == (moment == "second")
    before = {name: (told(out, name), records(out)[name]) for name in done}
    again = quantkit("batch", "run", path, "--json")  # at once: an orphan may still hold the output
    assert again.status == 0, again.stderr
    assert hashes(out) == expected
    until(lambda: not any(map(there, orphans)))
    assert {name: (told(out, name), records(out)[name]) for name in done} == before
    assert not list(out.rglob(".quantkit-????????????"))  # no work is left


def test_ctrl_c_saves_and_the_same_command_goes_on(expected: dict[str, str], tmp_path: Path) -> None:
    path, out = written(tmp_path, MATRIX), tmp_path / "out"
    scheduler = begun(path)
    until(lambda: "StageStarted" in told(out, "alpha.gguf"))
    scheduler.send_signal(signal.SIGINT)
    said, talk = scheduler.communicate(timeout=DEADLINE_S)
    assert scheduler.returncode == 130, talk
    result, error = map(json.loads, said.splitlines())
    assert error["error"]["code"] == "interrupted"
    assert result["states"]["done"] + result["states"]["interrupted"] == 1
    assert result["states"]["waiting"] == 1
    assert "Traceback" not in talk
    assert quantkit("batch", "run", path).status == 0
    assert hashes(out) == expected


def work_of(tmp_path: Path) -> Work:
    written(tmp_path, MATRIX)
    out = tmp_path / "out"
    task = Task(
        "alpha.gguf", "alpha", ("bf16", "f16"),
        ("convert", str(tmp_path / "alpha"), "--to=bf16", "--to=f16", f"--out={out / 'alpha'}", "--no-verify"),
        out / "alpha",
    )  # fmt: skip
    return Work(task, Ledger(out), "key")


def test_a_killed_child_is_tried_again_and_resumes(
    expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is killed at a call of its own, twice; what it had finished is kept."""
    from quantkit.batch import worker

    work = work_of(tmp_path)
    commands, begin = [], worker.subprocess.Popen

    def popen(command: list[str], **named: object) -> object:
        commands.append(command)
        env = {**os.environ, **({"QUANTKIT_FAULT": "kill:40"} if len(commands) < 3 else {})}
        return begin(command, env=env, **named)

    monkeypatch.setattr(worker.subprocess, "Popen", popen)
    outcome = run_task(work)
    assert outcome.ok
    assert outcome.attempts == len(commands) == 3
    made = {name: sha for name, sha in expected.items() if name.startswith("alpha")}
    assert hashes(work.ledger.out) == made
    record = work.ledger.read("alpha.gguf")
    assert record is not None
    assert {path: sha for each in record.artifacts for path, _, sha in each.files} == made


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed", "SIGKILL"),
        ("import sys; print('{}'); sys.exit('Boom')", "bug", "Boom"),
        (f"print({SAID!r}); import sys; sys.exit(3)", "input", "m"),
    ],
)  # fmt: skip
def test_how_a_child_ended_is_said(
    program: str, code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantkit.batch import worker

    monkeypatch.setattr(worker, "command", lambda work: [sys.executable, "-c", program])
    monkeypatch.setattr(worker, "ATTEMPTS", 2)
    work = work_of(tmp_path)
    outcome = run_task(work)
    assert not outcome.ok
    assert outcome.error is not None
    assert (outcome.error.code, words in outcome.error.message) == (code, True)
    assert outcome.attempts == (2 if code == "killed" else 1)
    record = work.ledger.read("alpha.gguf")
    assert record is not None
    assert work.ledger.state(record, "key") == "failed"
    assert work.ledger.state(record, "other") == "waiting"
    assert record.outcome().error == outcome.error


@pytest.mark.parametrize("hard", [False, True], ids=["asked", "killed"])
def test_a_child_that_is_stopped_before_it_can_say_so_was_interrupted(
    hard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it begins, or deaf to all but SIGKILL: neither is a failure, for what is interrupted goes on by itself."""
    from quantkit.batch import worker

    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    hears = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where the tests run in a background job
    program = f"import signal, time; {deaf if hard else hears}; print(flush=True); time.sleep(60)"
    monkeypatch.setattr(worker, "command", lambda work: [sys.executable, "-c", program])
    monkeypatch.setattr(worker, "PATIENCE_S", 0.0)
    now, asked = threading.Event(), threading.Event()
    for event in (asked, now) if hard else (asked,):
        threading.Timer(0.5, event.set).start()
    work = work_of(tmp_path)
    outcome = run_task(work, asked.is_set, now)
    assert (outcome.exit, outcome.attempts) == (130, 1)
    assert work.ledger.state(work.ledger.read("alpha.gguf"), "key") == "interrupted"


def test_the_program_of_a_task_hears_ctrl_c_whatever_began_it() -> None:
    """A shell makes what it runs in the background ignore SIGINT, and that is inherited."""
    code = "import signal, runpy, sys; runpy.run_module = lambda *a, **b: print(signal.getsignal(signal.SIGINT))\n"
    code += f"exec(compile(open({lifeline.__file__!r}).read(), 'x', 'exec'), {{'__name__': '__main__'}})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert "default_int_handler" in child.stdout.read()


def test_a_busy_output_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantkit.batch import worker

    busy = '{"schema": "quantkit.error/1", "error": {"code": "busy", "exit": 6, "message": "in use"}}'
    calls = []

    def command(work: Work) -> list[str]:
        calls.append(work)
        return [sys.executable, "-c", f"import sys; print('{busy}'); sys.exit(6)" if len(calls) < 3 else ""]

    monkeypatch.setattr(worker, "command", command)
    monkeypatch.setattr(worker, "BUSY_POLL_S", 0.01)
    outcome = run_task(work_of(tmp_path))
    assert outcome.ok
    assert len(calls) == 3
    assert outcome.attempts == 1


@pytest.mark.parametrize(
    ("exit_code", "parts", "passes"),
    [(2, (), False), (3, (), False), (5, (), True), (6, (), True), (7, (), False), (9, (), True), (-9, (), True),
     (10, (3, 6), True), (10, (3, 8), False)],
)  # fmt: skip
def test_what_may_pass_is_begun_again(exit_code: int, parts: tuple[int, ...], passes: bool) -> None:
    failures = tuple(Failure("x", each, "m") for each in parts)
    assert may_pass(Outcome("t", exit_code, 0.0, "here", Failure("x", exit_code, "m"), failures)) == passes
