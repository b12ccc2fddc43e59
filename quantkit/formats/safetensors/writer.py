"""The writing side of safetensors: headers, offsets, shards and their index, all known before a weight is read.

u64 N   N bytes of JSON, padded with spaces to a multiple of 8   tensor data, nothing between
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.packed import Entry
from quantkit.formats.safetensors.reader import MAX_HEADER_BYTES, METADATA
from quantkit.jsontext import dump_json
from quantkit.records import record
from quantkit.untrusted import shown

ALIGNMENT = 8
LENGTH_BYTES = 8  # of the number before the header
TEXT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
LOADER = {"format": "pt"}  # transformers refuses a file that does not say which framework it is for
SINGLE = "model.safetensors"


@record
class Header:
    """An encoded header; where each tensor's data begins in the file, and the size of the finished file."""

    data: bytes
    offsets: tuple[int, ...]
    nbytes: int


@record
class Shard:
    """One file of a checkpoint: its name, its tensors in the order of their data, and its header."""

    name: str
    entries: tuple[Entry, ...]
    header: Header


def encode_header(entries: Sequence[Entry], making: Mapping[str, str] = MappingProxyType({})) -> Header:
    """Encode a header for these tensors, whose data follows in the same order without gaps.

    `making` says how the file came to be, for the free text that loaders skip. Order, spacing and escapes depend on
    nothing but the arguments. Raises UnsupportedError above 64 MB.
    """
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names), "duplicate tensor names"
    assert METADATA not in names, METADATA
    parts, starts, end = [_opening(making)], [], 0
    for entry in entries:
        parts.append(_described(entry, end))
        starts.append(end)
        end += entry.nbytes
    text = b"".join((*parts, b"}"))
    text = text.ljust(_padded(len(text)))
    if len(text) > MAX_HEADER_BYTES:
        what = (
            f"the header of {len(entries):,} tensors takes {len(text):,} bytes, at most {MAX_HEADER_BYTES:,} are read"
        )
        raise UnsupportedError(what, hint="write smaller shards")
    data = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return Header(data, tuple(len(data) + start for start in starts), len(data) + end)


def _opening(making: Mapping[str, str]) -> bytes:
    """The text of a header up to its first tensor."""
    return f'{{"{METADATA}":{TEXT({**LOADER, **making})}'.encode()


def _described(entry: Entry, start: int) -> bytes:
    """What a header says of a tensor whose data begins at `start`, with the comma before it."""
    said = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, start + entry.nbytes]}
    return f",{TEXT(entry.name)}:{TEXT(said)}".encode()


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def split_shards(
    entries: Sequence[Entry], max_bytes: int | None = None, making: Mapping[str, str] = MappingProxyType({})
) -> tuple[Shard, ...]:
    """Distribute tensors over files of at most `max_bytes` each, header included, in the given order.

    A tensor that is larger with its header gets a file of its own. transformers and huggingface_hub count the tensors
    alone: their files are larger than asked for by a header, which a host that takes no more bytes refuses. One file is
    called model.safetensors, several model-00001-of-00003.safetensors and so on.
    """
    if max_bytes is None:
        return (Shard(SINGLE, tuple(entries), encode_header(entries, making)),)
    files: list[list[Entry]] = [[]]
    empty = len(_opening(making)) + len(b"}")
    text, used = empty, 0  # bytes of the header's text and of the data
    for entry in entries:
        more = len(_described(entry, used))
        whole = LENGTH_BYTES + _padded(text + more) + used + entry.nbytes
        if files[-1] and whole > max_bytes:
            files.append([])
            text, used = empty, 0
            more = len(_described(entry, 0))
        files[-1].append(entry)
        text, used = text + more, used + entry.nbytes
    return tuple(
        Shard(shard_name(number, len(files)), tuple(group), encode_header(group, making))
        for number, group in enumerate(files, 1)
    )


def shard_name(number: int, count: int) -> str:
    """The name of shard `number` of `count`, counted from 1."""
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def index_json(shards: Sequence[Shard]) -> bytes:
    """The content of model.safetensors.index.json: which shard holds each tensor, and the bytes of all tensors."""
    weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
    count = sum(len(shard.entries) for shard in shards)
    assert len(weight_map) == count, shown(", ".join(shard.name for shard in shards))
    total = sum(entry.nbytes for shard in shards for entry in shard.entries)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (dump_json(index, indent=2) + "\n").encode()
