"""What became of each task: a small file each, in the folder of the batch.

    OUT/.quantkit-batch/tasks/ID.json       what became of it, or who began it
    OUT/.quantkit-batch/events/ID.jsonl     what its command line told

A record is written at once or not at all. One that says "done" is believed while the task is still the same (its
command line, the files that it reads, as they look from outside) and its artifacts are there with their manifests.
Everything else is begun again: the command itself finds what is there already.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from quantkit.batch.expand import Wish
from quantkit.batch.options import OPTIONS, SHIPPED_TEXT
from quantkit.batch.place import INTERRUPTED, Failure, Outcome
from quantkit.errors import InputError
from quantkit.jsontext import dump_json, utf8
from quantkit.qtypes import NUMERICS
from quantkit.records import record
from quantkit.report.manifest import read_manifest
from quantkit.source.spec import names_hub
from quantkit.storage import write_small
from quantkit.storage.owner import read_owner, this_process
from quantkit.untrusted import parse_json_object, read_bounded

SCHEMA = "quantkit.batch_task/1"
FOLDER = ".quantkit-batch"
MAX_RECORD_BYTES = 16 << 20
MAX_FILES = 100_000  # of a source's folder that are looked at

State = Literal["done", "failed", "interrupted", "running", "waiting"]


class Made(msgspec.Struct, frozen=True):
    """An artifact that a task made. Paths are relative to the folder of the batch; `stamp` is how its manifest looked
    from outside then, `commit` that of its source on the Hub."""

    recipe: str
    kind: str
    manifest: str
    identity: str
    stamp: str
    bits_per_weight: float
    files: tuple[tuple[str, int, str], ...]  # path, bytes, sha256
    kl: float | None = None  # nats from the original, where gates asked
    kl_error: float | None = None
    gates: tuple[str, ...] = ()
    data: str | None = None  # the hash of the tokens that it was measured on
    commit: str | None = None

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes, _ in self.files)


class TaskRecord(msgspec.Struct, frozen=True):
    """What became of a task. `exit` is None while it runs, and stays so when whoever ran it was killed; `owner` is that
    process, as leases name them."""

    task: str
    key: str
    where: str
    time: float
    exit: int | None = None
    seconds: float = 0.0
    attempts: int = 1
    error: Failure | None = None
    failures: tuple[Failure, ...] = ()
    artifacts: tuple[Made, ...] = ()
    owner: str = ""

    def outcome(self) -> Outcome:
        exit_code = 0 if self.exit is None else self.exit
        return Outcome(self.task, exit_code, self.seconds, self.where, self.error, self.failures, self.attempts)


@record
class Ledger:
    """The records of a batch, below its folder `out`."""

    out: Path

    def place(self, task: str) -> Path:
        return self.out / FOLDER / "tasks" / f"{task}.json"

    def events(self, task: str) -> Path:
        return self.out / FOLDER / "events" / f"{task}.jsonl"

    def read(self, task: str) -> TaskRecord | None:
        """The record of a task; None without one that can be read."""
        path = self.place(task)
        try:
            body = parse_json_object(read_bounded(path, MAX_RECORD_BYTES), path)
            found = msgspec.convert(body, TaskRecord) if body.get("schema") == SCHEMA else None
        except (InputError, msgspec.MsgspecError, ValueError, OverflowError):
            return None
        return found if found is not None and found.task == task else None

    def begin(self, task: str, key: str) -> None:
        """Say that this process runs a task now."""
        self._write(TaskRecord(task, key, where(), time.time(), owner=this_process().encode().decode().strip()))

    def settle(self, outcome: Outcome, key: str, artifacts: Sequence[Made]) -> None:
        """Say what became of a task."""
        self._write(
            TaskRecord(
                outcome.task, key, outcome.where, time.time(), outcome.exit, round(outcome.seconds, 3),
                outcome.attempts, outcome.error, outcome.failures, tuple(artifacts),
            )
        )  # fmt: skip

    def _write(self, record: TaskRecord) -> None:
        body = {"schema": SCHEMA, **as_json(record)}
        write_small(self.place(record.task), (dump_json(body, indent=1) + "\n").encode(), overwrite=True)

    def state(self, record: TaskRecord | None, key: str) -> State:
        """What is known of a task whose key is `key` now."""
        if record is None or record.key != key:
            return "waiting"
        if record.exit is None:
            return "interrupted" if has_ended(record.owner) else "running"
        if record.exit == INTERRUPTED:
            return "interrupted"
        if record.exit != 0:
            return "failed"
        return "done" if record.artifacts and all(map(self.stands, record.artifacts)) else "waiting"

    def stands(self, made: Made) -> bool:
        """Whether an artifact is there as it was, by the sizes of its files and the manifest beside them."""
        if stamp(self.out / made.manifest) != made.stamp:
            return False
        return all(_nbytes(self.out / name) == nbytes for name, nbytes, _ in made.files)

    def what_stands(self, record: TaskRecord) -> TaskRecord:
        """A record without artifacts that are gone, or others by now."""
        return msgspec.structs.replace(record, artifacts=tuple(filter(self.stands, record.artifacts)))

    def made(self, artifacts: Iterable[Mapping[str, Any]]) -> tuple[Made, ...]:
        """Artifacts as convert prints them, as records have them."""
        return tuple(
            Made(
                recipe=str(each["recipe"]),
                kind=str(each["kind"]),
                manifest=self._relative(each["manifest"]),
                identity=str(each["identity"]),
                stamp=stamp(Path(each["manifest"])),
                bits_per_weight=float(each["size"]["bits_per_weight"]),
                files=tuple((self._relative(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in each["files"]),
                **_measured(each["checks"]),
                commit=_commit(Path(each["manifest"])),
            )
            for each in artifacts
        )

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.out)


def _measured(checks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What gates found, of the checks of an artifact; nothing without any."""
    judged = next((check for check in checks if check.get("gates") and "kl" in check), None)
    if judged is None:
        return {}
    gates = tuple(str(gate["gate"]) for gate in judged["gates"])
    figures = {"kl": judged["kl"]["value"], "kl_error": judged["kl"]["standard_error"], "gates": gates}
    return {**figures, "data": judged["data"]["token_sha256"]}


def _commit(manifest: Path) -> str | None:
    """The commit of an artifact's source; None where it has none, or the manifest is gone by now."""
    with suppress(InputError):
        found = read_manifest(manifest).source.get("commit")
        return None if found is None else str(found)
    return None


def as_json(record: TaskRecord) -> dict[str, Any]:
    """A record as plain JSON."""
    body: dict[str, Any] = msgspec.to_builtins(record)
    body["error"] = None if record.error is None else asdict(record.error)
    return body


def where() -> str:
    """This machine and process, as records name them."""
    return f"{socket.gethostname()}:{os.getpid()}"


def has_ended(owner: str) -> bool:
    """Whether the process that a record names is certainly gone: of another machine nobody knows."""
    found = read_owner(utf8(owner))
    return found is not None and found.has_ended


# --- whether a task is still the same -------------------------------------------------------------------------------


def keys_of(wishes: Iterable[Wish]) -> dict[str, str]:
    """For each task, by its id, a hash of what decides its result: its command line, how numbers are computed, and the
    files that it reads as they look now. Each file is looked at once."""
    look = cache(looks)
    return {wish.task.id: _key(wish, look) for wish in wishes}


def _key(wish: Wish, look: Callable[[str], str]) -> str:
    lines = [
        *wish.task.argv,
        f"numerics {NUMERICS}",
        f"source {look(wish.source)}",
        *(f"to {look(to)}" for to in wish.to),
    ]
    for key, value in wish.options.items():
        if OPTIONS[key].files:
            lines += [f"{key} {look(name)}" for name in (value if isinstance(value, tuple) else (str(value),))]
    return hashlib.sha256(utf8("\n".join(lines))).hexdigest()


def looks(name: str) -> str:
    """How a file or the files of a folder look from outside; "" for what is no path, such as a name of the Hub."""
    if names_hub(name) or name == SHIPPED_TEXT:
        return ""
    path = Path(name)
    if not os.path.isdir(path):  # noqa: PTH112 - Path raises for names that are too long
        return stamp(path)
    found: list[str] = []
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and len(found) < MAX_FILES:
                found.append(f"{entry.name} {stamp(Path(entry.path))}")
    return "\n".join(sorted(found))


def stamp(path: Path) -> str:
    """Size, number and time of change of a file; "" where there is none."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{facts.st_size} {facts.st_ino} {facts.st_mtime_ns}"


def _nbytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1
