"""One task as a child process: its command line, its JSON, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Event
from typing import Any

from quantkit.batch.ledger import Ledger, where
from quantkit.batch.place import DONE, INTERRUPTED, SEVERAL, Failure, Outcome
from quantkit.batch.task import Task
from quantkit.events import never
from quantkit.platforms import FATAL
from quantkit.records import record

POLL_S = 0.2
BUSY_WAIT_S = 600.0  # for another process that makes the same output: then its files are found
BUSY_POLL_S = 1.0
ATTEMPTS = 3  # of what the network or a killer ended
PATIENCE_S = 10.0  # between asking a child to stop at once and killing it
TAIL = 4000  # characters of a child's last words
LIFELINE = "quantkit.batch.lifeline"
BUSY, NETWORK = "busy", 9
KILLED = "killed"
ASKED = (signal.SIGINT, signal.SIGTERM)
PASSING = (5, 6, 9)  # exit codes of what may be otherwise later: resources, a busy output, the network


@record
class Work:
    """A task with what it takes to run it: the ledger of its batch, and its key there.

    `threads` are those of the child, None for all cores; `force` replaces outputs that are there and differ.
    """

    task: Task
    ledger: Ledger
    key: str
    threads: int | None = None
    force: bool = False
    offline: bool = False


def run_task(work: Work, stop: Callable[[], bool] = never, now: Event | None = None) -> Outcome:
    """Run a task and record what became of it.

    An output that is busy is waited for, what the network or a signal ended is tried again. `stop` asks the child to
    save its work and end, `now` to end at once. Both make an outcome with exit 130.
    """
    start = time.monotonic()
    now = now or Event()
    work.ledger.begin(work.task.id, work.key)
    attempts, busy_since = 1, None
    while True:
        outcome, body = _run_once(work, stop, now)
        again = not stop() and not now.is_set()
        if again and _busy(outcome):
            busy_since = busy_since or time.monotonic()
            if time.monotonic() - busy_since < BUSY_WAIT_S:
                now.wait(BUSY_POLL_S)
                continue
        elif again and attempts < ATTEMPTS and (outcome.exit < 0 or outcome.exit == NETWORK):
            now.wait(attempts)
            attempts += 1
            continue
        break
    outcome = replace(outcome, seconds=time.monotonic() - start, attempts=attempts)
    work.ledger.settle(outcome, work.key, work.ledger.made(body.get("artifacts", ())))
    return outcome


def may_pass(outcome: Outcome) -> bool:
    """Whether a failure may be none the next time: of several recipes, whether any may."""
    if outcome.exit < 0 or outcome.exit in PASSING:
        return True
    return any(each.exit in PASSING for each in outcome.failures)


def command(work: Work) -> list[str]:
    """The command line of the child, as a list for the system."""
    extra = ["--json", "--quiet", "--no-step-summary", f"--events={work.ledger.events(work.task.id)}"]
    extra += [f"--threads={work.threads}"] if work.threads else []
    extra += ["--force"] if work.force else []
    extra += ["--offline"] if work.offline and "--offline" not in work.task.argv else []
    return [sys.executable, "-m", LIFELINE, *work.task.argv, *extra]


def _run_once(work: Work, stop: Callable[[], bool], now: Event) -> tuple[Outcome, Mapping[str, Any]]:
    """One run of the child: what became of it, and the object that it printed."""
    place, name = where(), work.task.id
    if stop():
        return Outcome(name, INTERRUPTED, 0.0, place, _interrupted()), {}
    try:
        child = subprocess.Popen(
            command(work),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever runs the batch, who asks the children
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        failure = Failure("resource", 5, f"cannot start a process: {error.strerror}", "free some memory")
        return Outcome(name, 5, 0.0, place, failure), {}
    with child:
        out, err = _wait(child, stop, now)
    objects = list(_objects(out))
    body = next((each for each in objects if each.get("schema") == "quantkit.convert/1"), {})
    failures = tuple(_failure(each, each.get("recipe", "")) for each in body.get("failures", ()))
    exit_code = child.returncode
    if exit_code < 0 and (now.is_set() or (stop() and -exit_code in ASKED)):  # by us, and it was in no state to say so
        return Outcome(name, INTERRUPTED, 0.0, place, _interrupted("interrupted: what it had finished is kept")), {}
    failed: Failure | None = None
    if exit_code != DONE:
        said = next((each["error"] for each in objects if each.get("schema") == "quantkit.error/1"), None)
        failed = _failure(said) if said else _unsaid(exit_code, err)
    return Outcome(name, exit_code, 0.0, place, failed, failures), body


def _wait(child: subprocess.Popen[str], stop: Callable[[], bool], now: Event) -> tuple[str, str]:
    """Wait for the end of a child, and pass on what is asked of it. Its lifeline stays open until then."""
    asked = ended = None
    lifeline, child.stdin = child.stdin, None  # which communicate would close
    try:
        while True:
            try:
                return child.communicate(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                if asked is None and (stop() or now.is_set()):
                    asked = time.monotonic()
                    _signal(child, signal.SIGINT)
                if ended is None and now.is_set():
                    ended = time.monotonic()
                    _signal(child, signal.SIGTERM)
                if ended is not None and time.monotonic() - ended > PATIENCE_S:
                    child.kill()
    finally:
        if lifeline is not None:
            with suppress(OSError):
                lifeline.close()


def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


def _objects(text: str) -> Sequence[dict[str, Any]]:
    """The JSON objects that a child printed, one after the other."""
    decoder, at = json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            return found
        try:
            body, at = decoder.raw_decode(text, at)
        except ValueError:
            return found
        if isinstance(body, dict):
            found.append(body)


def _failure(body: Mapping[str, Any], recipe: str = "") -> Failure:
    return Failure(str(body["code"]), int(body["exit"]), str(body["message"]), body.get("hint"), str(recipe))


def _unsaid(exit_code: int, err: str) -> Failure:
    """Why a child ended that could not say it."""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        oom = ", as the system does when memory runs out" if -exit_code == FATAL else ""
        return Failure(KILLED, exit_code, f"the process was ended by {name}{oom}", "run it again: it resumes")
    words = err.strip()[-TAIL:].splitlines() or ["it said nothing"]
    return Failure("bug", exit_code, f"exit {exit_code}: {words[-1]}", "run its command line by itself to see why")


def _busy(outcome: Outcome) -> bool:
    """Whether nothing but an output in use keeps a task from being made."""
    if outcome.exit == SEVERAL:
        return bool(outcome.failures) and all(each.code == BUSY for each in outcome.failures)
    return outcome.error is not None and outcome.error.code == BUSY


def _interrupted(what: str = "interrupted before it began") -> Failure:
    return Failure("interrupted", INTERRUPTED, what, "run the same command again")
