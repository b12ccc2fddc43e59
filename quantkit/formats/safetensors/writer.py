"""The writing side of safetensors: headers, offsets, shards and their index, all known before a weight is read.

u64 N   N bytes of JSON, padded with spaces to a multiple of 8   tensor data, nothing between
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.packed import Entry
from quantkit.formats.safetensors.reader import MAX_HEADER_BYTES, METADATA
from quantkit.jsontext import dump_json
from quantkit.untrusted import shown

ALIGNMENT = 8
LOADER = {"format": "pt"}  # transformers refuses a file that does not say which framework it is for
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Header:
    """An encoded header; where each tensor's data begins in the file, and the size of the finished file."""

    data: bytes
    offsets: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
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
    header: dict[str, object] = {METADATA: {**LOADER, **making}}
    end, ends = 0, []
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
        ends.append(start)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        what = (
            f"the header of {len(entries):,} tensors takes {len(text):,} bytes, at most {MAX_HEADER_BYTES:,} are read"
        )
        raise UnsupportedError(what, hint="write smaller shards")
    data = len(text).to_bytes(8, "little") + text
    return Header(data, tuple(len(data) + start for start in ends), len(data) + end)


def split_shards(
    entries: Sequence[Entry], max_bytes: int | None = None, making: Mapping[str, str] = MappingProxyType({})
) -> tuple[Shard, ...]:
    """Distribute tensors over files of at most `max_bytes` of data each, in the given order.

    A tensor larger than `max_bytes` gets a file of its own. One file is called model.safetensors, several
    model-00001-of-00003.safetensors and so on.
    """
    files: list[list[Entry]] = [[]]
    used = 0
    for entry in entries:
        if max_bytes is not None and files[-1] and used + entry.nbytes > max_bytes:
            files.append([])
            used = 0
        files[-1].append(entry)
        used += entry.nbytes
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
