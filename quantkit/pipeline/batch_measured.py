"""What `eval` measured of the artifacts of a batch, from records that lie beside them.

    *.eval.json     what `eval --json` printed, with the error behind it where a gate failed
    *.eval.jsonl    lines of `eval --append`

in the folder of the batch, and in those of its artifacts. A measurement is of the artifact whose identity it names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from quantkit.batch.ledger import Made, TaskRecord
from quantkit.errors import InputError
from quantkit.pipeline.report import read_records
from quantkit.records import record
from quantkit.units import counted
from quantkit.untrusted import shown

SUFFIXES = (".eval.json", ".eval.jsonl")
MAX_RECORDS = 1000


@record
class Measurement:
    """What was measured of an artifact at `time`: KL divergence in nats with its standard error, on the text whose
    tokens hash to `data`; gates with what became of them, None where the record does not say which they were."""

    time: str
    kl: float
    kl_error: float | None
    data: str
    gates: tuple[str, ...] | None

    def of(self, made: Made) -> Made:
        """An artifact with this in the place of what its gates measured when it was made."""
        gates = made.gates if self.gates is None else self.gates
        return msgspec.structs.replace(made, kl=self.kl, kl_error=self.kl_error, data=self.data, gates=gates)


@record
class Measurements:
    """By the identity of the artifact the newest; and the records that could not be read, with the reason."""

    newest: dict[str, Measurement]
    unread: tuple[str, ...] = ()

    def of(self, record: TaskRecord) -> TaskRecord:
        """A record with what was measured later of its artifacts."""
        found = tuple(
            self.newest[made.identity].of(made) if made.identity in self.newest else made for made in record.artifacts
        )
        return msgspec.structs.replace(record, artifacts=found)


def measurements_in(out: Path, records: Iterable[TaskRecord]) -> Measurements:
    """All that was measured of the artifacts of a batch whose folder is `out`."""
    folders = {out, *((out / made.manifest).parent for record in records for made in record.artifacts)}
    found: list[tuple[str, Measurement]] = []
    paths = sorted(set(_named(folders)))
    left = len(paths) - MAX_RECORDS
    unread = [f"{shown(out)}: {counted(left, 'record')} of eval behind the first {MAX_RECORDS:,}"] if left > 0 else []
    for path in paths[:MAX_RECORDS]:
        try:
            found += _in(path)
        except InputError as error:
            unread.append(error.message)
    newest = {identity: each for identity, each in sorted(found, key=lambda one: one[1].time)}
    return Measurements(newest, tuple(unread))


def _named(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.name.endswith(SUFFIXES) and entry.is_file())


def _in(path: Path) -> Iterator[tuple[str, Measurement]]:
    """Identities and measurements of a file. Raises InputError."""
    page = read_records(path)
    for line in page.history:
        if line["identity"]:
            kl, gates = line["kl"], None if line["ok"] else ("a gate FAILED",)
            data = _data(line["data"], line.get("engine"))
            yield line["identity"], Measurement(str(line["time"]), kl["value"], kl["standard_error"], data, gates)
    for body in page.evaluations:
        for each in body["artifacts"]:
            if each["identity"]:
                kl, engine = each["kl"], each.get("engine")
                names = tuple(gate["gate"] + ("" if gate["ok"] else " FAILED") for gate in each["gates"])
                data = _data(body["data"]["token_sha256"], engine["name"] if engine else None)
                time = str(body.get("time") or "")
                yield each["identity"], Measurement(time, kl["value"], kl["standard_error"], data, names or None)


def _data(token_sha256: str, engine: str | None) -> str:
    """What figures have to share to be compared: the tokens, and who ran the artifact on them."""
    return token_sha256 if engine is None else f"{token_sha256} {engine}"
