"""The journal of a job, as bytes: which tensors are finished, which files are on their way to their final names.

    {"crc32":"5f0d2b1c","digest":"9a0c...","files":[["m.gguf",806912]],"journal":1}      first line: whose journal
    {"crc32":"0e8f6a77","extra":{},"file":0,"nbytes":4096,"offset":128,"sha256":"1b...","tensor":"blk.0.attn_q.weight"}
    {"crc32":"c2a94e01","moving":0,"sha256":"77...","target":"m.gguf"}                   written before the rename

    {"crc32":"70b3aa02","retired":["model.manifest.json","config.json"]}                 written before a removal

The CRC-32 is that of the line without it. A line that does not check is skipped, wherever it stands: losing one
costs work, never correctness, since what the journal claims is hashed on the disk before it is believed.

The journal of a job also has a `seal` in every line, an HMAC under a key that the user's key, the digest and the files
give. A line without the right one is nobody's: a journal and files that agree on other weights were not made here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import field

from quantkit.records import record

VERSION = 1
MAX_BYTES = 96 << 20  # 200,000 tensors need about 60 MB; what is cut off costs work only
SEAL_DIGITS = 32  # 128 bits

_CRC = re.compile(rb'\{"crc32":"([0-9a-f]{8})",')


@record
class PartFile:
    """One file under construction: its final name (no folder) and exact size."""

    name: str
    nbytes: int


@record
class Record:
    """One finished tensor: bytes [offset, offset + nbytes) of file number `file`, and their SHA-256 (hex).

    `extra` is kept for the caller: numbers and names that a manifest needs (error figures, seconds).
    """

    tensor: str
    file: int
    offset: int
    nbytes: int
    sha256: str
    extra: Mapping[str, float | int | str] = field(default_factory=dict)


@record
class Move:
    """File number `file`, with this SHA-256, was about to be renamed to `target` (relative to the job's parent)."""

    file: int
    target: str
    sha256: str


@record
class Retirement:
    """These files beside the job, all of an older artifact, were about to be removed to make room."""

    names: tuple[str, ...]


@record
class History:
    """What a journal claims: the last record of each tensor, the last move of each file, what was to be removed."""

    records: Mapping[str, Record]
    moves: Mapping[int, Move]
    retired: tuple[str, ...] = ()


def job_key(key: bytes, digest: str, files: Sequence[PartFile]) -> bytes:
    """The key of one job's lines, from that of the user: lines of another job do not fit here."""
    return hmac.digest(key, header_line(digest, files), "sha256")


def header_line(digest: str, files: Sequence[PartFile], key: bytes = b"") -> bytes:
    """The first line: it pins the journal's version, the plan's digest, and every file's name and size."""
    return _line({"journal": VERSION, "digest": digest, "files": [[f.name, f.nbytes] for f in files]}, key)


def record_line(record: Record, key: bytes = b"") -> bytes:
    return _line({**vars(record), "extra": dict(record.extra)}, key)


def move_line(move: Move, key: bytes = b"") -> bytes:
    return _line({"moving": move.file, "target": move.target, "sha256": move.sha256}, key)


def retirement_line(retirement: Retirement, key: bytes = b"") -> bytes:
    return _line({"retired": list(retirement.names)}, key)


def replay(log: bytes, digest: str, files: Sequence[PartFile], key: bytes = b"") -> History | None:
    """Read a journal back; None when it is another job's, another version's, or nothing of it is readable."""
    first, *lines = log.split(b"\n")
    if first + b"\n" != header_line(digest, files, key):
        return None
    records: dict[str, Record] = {}
    moves: dict[int, Move] = {}
    retired: tuple[str, ...] = ()
    for line in lines:
        match _entry(line, key):
            case Record() as record if inside(record, files):
                records[record.tensor] = record
            case Move() as move if move.file in range(len(files)):
                moves[move.file] = move
            case Retirement() as found:
                retired = found.names
    return History(records, moves, retired)


def _line(entry: Mapping[str, object], key: bytes) -> bytes:
    sealed = {**entry, "seal": _seal(entry, key)} if key else entry
    body = _body(sealed)
    return b'{"crc32":"%08x",%b\n' % (zlib.crc32(body), body[1:])


def _body(entry: Mapping[str, object]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode("ascii")


def _seal(entry: Mapping[str, object], key: bytes) -> str:
    return hmac.digest(key, _body(entry), hashlib.sha256).hex()[:SEAL_DIGITS]


def _entry(line: bytes, key: bytes) -> Record | Move | Retirement | None:
    """The record or move of a line, None when the line is torn, damaged, nobody's or something else."""
    head = _CRC.match(line)
    body = b"{" + line[head.end() :] if head else b""
    if head is None or zlib.crc32(body) != int(head[1], 16):
        return None
    try:
        entry = json.loads(body)
        if key and not (isinstance(entry, dict) and str(entry.pop("seal", "")) == _seal(entry, key)):
            return None
    except (ValueError, RecursionError):
        return None
    match entry:
        case {"retired": list(names)} if all(isinstance(name, str) for name in names):
            return Retirement(tuple(names))
        case {"tensor": str(tensor), "file": int(file), "offset": int(offset), "nbytes": int(nbytes)}:
            return Record(tensor, file, offset, nbytes, str(entry.get("sha256")), _flat(entry.get("extra")))
        case {"moving": int(file), "target": str(target), "sha256": str(sha256)}:
            return Move(file, target, sha256)
    return None


def _flat(extra: object) -> dict[str, float | int | str]:
    return {k: v for k, v in extra.items() if isinstance(v, float | int | str)} if isinstance(extra, dict) else {}


def inside(record: Record, files: Sequence[PartFile]) -> bool:
    """Whether a record's bytes lie in its file."""
    if record.file not in range(len(files)):
        return False
    return 0 <= record.offset <= record.offset + record.nbytes <= files[record.file].nbytes
