"""A small run of everything quantkit.storage does, as the pipeline does it, with bytes known in advance.

As a program: `scenario.py OUT` builds there and ends with the exit code of its error; QUANTKIT_FAULT applies.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quantkit.cli.exits import exit_code
from quantkit.errors import QuantkitError, VerificationError
from quantkit.storage import Job, Ops, PartFile, Record, open_job, update_sums
from quantkit.storage.disk import Args, Result, direct
from quantkit.storage.nested import part_name

DIGEST = "5eed" * 16
JOB = f".quantkit-{DIGEST[:12]}"
NAMES = ("model-1-of-2.gguf", "model-2-of-2.gguf", "templates/tools.jinja")
FOLDER = "templates"
MANIFEST = "model.json"
HEADER = b"HEAD" * 40


@dataclass(frozen=True)
class Tensor:
    name: str
    file: int
    offset: int
    data: bytes

    @property
    def record(self) -> Record:
        sha256 = hashlib.sha256(self.data).hexdigest()
        return Record(self.name, self.file, self.offset, len(self.data), sha256, {"rmse": 0.125, "qtype": "q4_k"})


def _tensors() -> tuple[Tensor, ...]:
    bits = random.Random(0)
    sizes = [(0, 5000), (0, 33), (0, 9000), (1, 4096), (1, 7001)]
    ends, tensors = [192, 192], []
    for number, (file, size) in enumerate(sizes):
        tensors.append(Tensor(f"blk.{number}.weight", file, ends[file], bits.randbytes(size)))
        ends[file] += -(-size // 64) * 64  # padded to 64: gaps that no tensor covers
    return tuple(tensors)


TENSORS = _tensors()


def _contents(file: int) -> bytes:
    mine = [t for t in TENSORS if t.file == file]
    data = bytearray(max((t.offset + -(-len(t.data) // 64) * 64 for t in mine), default=192))
    data[: len(HEADER)] = HEADER
    for tensor in mine:
        data[tensor.offset : tensor.offset + len(tensor.data)] = tensor.data
    return bytes(data)


CONTENTS = tuple(map(_contents, range(len(NAMES))))
PARTS = tuple(part_name(number, name) for number, name in enumerate(NAMES))
FILES = tuple(PartFile(name, len(data)) for name, data in zip(NAMES, CONTENTS, strict=True))


def build(out: Path, ops: Ops | None = None, *, overwrite: bool = False, stop_after: int | None = None) -> None:
    """One run; after `stop_after` tensors it ends as Ctrl-C ends it."""
    with open_scenario(out, ops) as job:
        if not overwrite and (out / MANIFEST).exists():  # another process was faster
            job.discard()
            return
        fill(job, stop_after)
        if stop_after is not None:
            return
        retired = [MANIFEST] if overwrite and (out / MANIFEST).exists() else []
        published = job.publish(
            [out / name for name in NAMES], overwrite=overwrite, check=check_structure, retire=lambda: retired
        )
        sums = {p.path.relative_to(out).as_posix(): p.sha256 for p in published}
        manifest = json.dumps(sums).encode()
        job.require_turn()
        update_sums(out, sums | {MANIFEST: hashlib.sha256(manifest).hexdigest()}, ops=ops)
        job.seal(out / MANIFEST, manifest)
        job.discard()


def open_scenario(out: Path, ops: Ops | None = None) -> Job:
    return open_job(out / JOB, digest=DIGEST, files=FILES, ops=ops)


def fill(job: Job, stop_after: int | None = None) -> None:
    """Write what is missing, in two pieces each, and the headers unless stopped before."""
    for number, tensor in enumerate(TENSORS[:stop_after]):
        if tensor.name in job.records:
            continue
        half = len(tensor.data) // 2
        job.write(tensor.file, tensor.offset, tensor.data[:half])
        job.write(tensor.file, tensor.offset + half, memoryview(tensor.data)[half:])
        job.finish(tensor.record)
        if number == 2:
            job.flush()
    if stop_after is None:
        for file in range(len(FILES)):
            job.write(file, 0, HEADER)
    else:
        job.flush()


def check_structure(part: Path) -> None:
    if part.read_bytes() not in CONTENTS:
        raise VerificationError(f"{part}: wrong structure", path=str(part))


def assert_nothing_damaged(out: Path, before: dict[str, bytes]) -> None:
    """Each final file is whole: as it was before, or as it must become; a manifest describes files that are there."""
    for name, data in zip(NAMES, CONTENTS, strict=True):
        allowed = [data, before[name]] if name in before else [data, None]
        found = (out / name).read_bytes() if (out / name).exists() else None
        assert found in allowed, name
    if (out / MANIFEST).exists():
        for name, sha256 in json.loads((out / MANIFEST).read_bytes()).items():
            assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256


def assert_complete(out: Path) -> None:
    """Everything is published, the sums agree, and no other file is left."""
    assert files(out) == {*NAMES, MANIFEST, "SHA256SUMS"}
    assert [p.name for p in out.iterdir() if p.is_dir()] == [FOLDER]
    assert tuple((out / name).read_bytes() for name in NAMES) == CONTENTS
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=out, check=True)


def files(out: Path) -> set[str]:
    """The names of all files, of those in folders with the folder."""
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in files(out) if not name.startswith(JOB)}


def published(out: Path) -> set[str]:
    """The names whose files are the finished ones."""
    pairs = zip(NAMES, CONTENTS, strict=True)
    return {name for name, data in pairs if (out / name).exists() and (out / name).read_bytes() == data}


OLD = {NAMES[0]: b"an older artifact", NAMES[1]: b"its second file", NAMES[2]: b"its template"}
OLD[MANIFEST] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in OLD.items()}).encode()


def with_old_artifact(out: Path) -> dict[str, bytes]:
    (out / FOLDER).mkdir(parents=True)
    for name, data in OLD.items():
        (out / name).write_bytes(data)
    return OLD


def lacking(*names: str, ops: Ops = direct) -> Ops:
    """A file system without some calls, or with a lock that always succeeds."""

    def without(call: Callable[[*Args], Result], *args: *Args) -> Result:
        if call.__name__ == "flock" and "flock" in names:
            return ops(_nothing)
        if call.__name__ in names:
            raise OSError(95, "Operation not supported")
        return ops(call, *args)

    return without


def _nothing() -> None: ...


def expire(out: Path) -> None:
    """Let all leases of the job run out, as after two minutes without a sign of life."""
    for lease in (out / JOB).glob("lease-*"):
        with suppress(FileNotFoundError):
            os.utime(lease, (0, 0))


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1]), overwrite=True)
    except QuantkitError as error:
        sys.exit(exit_code(error))
