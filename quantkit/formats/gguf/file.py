"""GGUF: the container of llama.cpp. The header writer, split files, and the door to the bounded reader.

The layout is drawn in `quantkit.formats.gguf.reader`. A header is encoded before any weight is read: its length
fixes every offset and the size of the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

from quantkit.errors import InputError
from quantkit.formats.gguf.reader import Limits, parse_gguf, read_gguf
from quantkit.formats.gguf.types import (
    ALIGNMENT_KEY,
    ARRAY,
    DEFAULT_ALIGNMENT,
    GGML_TYPES,
    KIND_NUMBERS,
    MAGIC,
    MAX_DIMS,
    MAX_NAME_BYTES,
    STRUCT_CODES,
    VERSION,
    GGUFFile,
    GGUFTensor,
    ggml_type,
    padded,
)
from quantkit.metadata import KeyValue, Kind, Scalar
from quantkit.records import record
from quantkit.tensors import U8
from quantkit.units import counted
from quantkit.untrusted import listed, open_input, shown

__all__ = [
    "GGML_TYPES",
    "GGUFFile",
    "GGUFTensor",
    "Header",
    "Limits",
    "TensorEntry",
    "encode_header",
    "parse_gguf",
    "read_gguf",
    "read_tensor_bytes",
    "require_whole_split",
    "shard_name",
    "shard_paths",
    "split_by_bytes",
    "split_metadata",
]

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

VOCABULARY = 1000  # strings from which on an array is worth keeping encoded


@record
class TensorEntry:
    """A tensor to be written: `shape` in checkpoint order, `type_id` its ggml number, `nbytes` without padding."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    nbytes: int


@record
class Header:
    """An encoded header with its padding; where each tensor's data belongs, and the size of the finished file."""

    data: bytes
    offsets: tuple[int, ...]
    nbytes: int


def encode_header(metadata: Sequence[KeyValue], tensors: Sequence[TensorEntry]) -> Header:
    """Encode a GGUF version 3 header: the bytes gguf.GGUFWriter writes for the same entries in the same order.

    Tensor data follows in the given order, each tensor padded to the alignment (`general.alignment`, else 32), the
    last one too. Raises InputError naming the key for a value that its kind cannot hold: values come from
    checkpoints. Takes about 0.1 s for a vocabulary of 262,144 tokens.
    """
    keys = [entry.key for entry in metadata]
    assert len(set(keys)) == len(keys), "duplicate keys"
    names = [tensor.name for tensor in tensors]
    assert len(set(names)) == len(names), "duplicate tensor names"
    alignment = next((e.value for e in metadata if e.key == ALIGNMENT_KEY), DEFAULT_ALIGNMENT)
    assert isinstance(alignment, int), alignment
    pieces = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for entry in metadata:
        pieces += [_string(entry.key, entry.key), *_encode_value(entry)]
    offset, offsets = 0, []
    for tensor in tensors:
        pieces.append(_encode_tensor(tensor, offset))
        offsets.append(offset)
        offset += padded(tensor.nbytes, alignment)
    header = b"".join(pieces)
    start = padded(len(header), alignment)
    return Header(header.ljust(start, b"\0"), tuple(start + o for o in offsets), start + offset)


def _encode_tensor(tensor: TensorEntry, offset: int) -> bytes:
    ggml = ggml_type(tensor.type_id)
    assert ggml is not None, tensor
    row = tensor.shape[-1] if tensor.shape else 1
    elements = 1
    for size in tensor.shape:
        elements *= size
    assert 0 < len(tensor.name.encode()) <= MAX_NAME_BYTES, tensor.name
    assert len(tensor.shape) <= MAX_DIMS, tensor.shape
    assert row % ggml.block == 0, tensor
    assert tensor.nbytes == elements // ggml.block * ggml.nbytes, tensor
    dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
    return _string(tensor.name, tensor.name) + dims + struct.pack("<IQ", tensor.type_id, offset)


def _encode_value(entry: KeyValue) -> list[bytes]:
    number = struct.pack("<I", KIND_NUMBERS[entry.kind])
    if not entry.array:
        assert isinstance(entry.value, int | float | str | bytes), entry.key
        return [number, *_encode_scalars(entry.key, entry.kind, [entry.value])]
    assert not isinstance(entry.value, int | float | str | bytes), entry.key
    count = struct.pack("<IIQ", ARRAY, KIND_NUMBERS[entry.kind], len(entry.value))
    return [count, *_encode_scalars(entry.key, entry.kind, entry.value)]


def _encode_scalars(key: str, kind: Kind, values: Sequence[Scalar]) -> list[bytes]:
    if kind == "string":
        if isinstance(values, tuple) and len(values) >= VOCABULARY:
            return [_vocabulary(key, values)]
        return _strings(key, values)
    try:
        return [struct.pack(f"<{len(values)}{STRUCT_CODES[kind]}", *values)]
    except (struct.error, OverflowError) as error:
        shown_values = shown(", ".join(str(value) for value in values[:4]))
        raise InputError(
            f"{key}: {shown_values} does not fit {kind}: {error}", key=key, hint="check config.json and the tokenizer"
        ) from error


@lru_cache(maxsize=2)  # tokens and merges: plans of several recipes have the same ones
def _vocabulary(key: str, values: tuple[Scalar, ...]) -> bytes:
    """As `_strings`, in one piece."""
    return b"".join(_strings(key, values))


def _strings(key: str, values: Sequence[Scalar]) -> list[bytes]:
    """Lengths and bytes of strings in turn, ready to be joined."""
    raw = [_utf8(key, value) for value in values]
    pieces = [b""] * (2 * len(raw))
    pieces[0::2] = [len(item).to_bytes(8, "little") for item in raw]
    pieces[1::2] = raw
    return pieces


def _utf8(key: str, value: Scalar) -> bytes:
    if isinstance(value, bytes):
        return value
    assert isinstance(value, str), key
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        why = f'{shown(key)}: "{shown(value)}" is not Unicode text (a lone surrogate)'
        raise InputError(why, key=key, hint="check config.json and the tokenizer") from error


def _string(key: str, value: str) -> bytes:
    return b"".join(_strings(key, [value]))


def read_tensor_bytes(file: GGUFFile, tensor: GGUFTensor, start: int = 0, stop: int | None = None) -> U8:
    """Bytes [start, stop) of a tensor's data as uint8, the whole tensor by default.

    Raises InputError if the file is not the one whose header was parsed.
    """
    stop = tensor.nbytes if stop is None else stop
    assert 0 <= start <= stop <= tensor.nbytes, (tensor.name, start, stop)
    source = open_input(file.path)
    try:
        if source.stamp != file.stamp:
            why = f"{shown(file.path)} changed after its header was read"
            raise InputError(why, path=str(file.path), hint="run again when nothing else writes to it")
        return source.read(tensor.offset + start, tensor.offset + stop)
    finally:
        source.close()


def split_by_bytes(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut tensors of `sizes` bytes into shards, in order: a shard ends before it would exceed `limit` bytes.

    A larger tensor gets a shard of its own. Sizes exclude padding and headers, as gguf.GGUFWriter counts.
    """
    shards, first, filled = [], 0, 0
    for index, nbytes in enumerate(sizes):
        if index > first and filled + nbytes > limit:
            shards.append(range(first, index))
            first, filled = index, 0
        filled += nbytes
    return [*shards, range(first, len(sizes))]


def split_files(tensors: Sequence[TensorEntry], metadata: Sequence[KeyValue], limit: int) -> list[range]:
    """Cut tensors into files of at most `limit` bytes, headers included, in order; one range where all fit into one.

    The first file carries `metadata`, and no tensor where none fits beside it. Only a header or a tensor that is larger
    than the limit by itself makes a larger file. llama-gguf-split counts tensors alone.
    """
    infos = [len(_encode_tensor(tensor, 0)) for tensor in tensors]
    sizes = [padded(tensor.nbytes, DEFAULT_ALIGNMENT) for tensor in tensors]
    if encode_header(metadata, tensors).nbytes <= limit:
        return [range(len(tensors))]
    heads = [_head_bytes(metadata), _head_bytes(())]
    shards: list[range] = []
    first, head, data = 0, heads[0], 0
    for index, (info, size) in enumerate(zip(infos, sizes, strict=True)):
        full = padded(head + info, DEFAULT_ALIGNMENT) + data + size > limit
        if full and (index > first or not shards):
            shards.append(range(first, index))
            first, head, data = index, heads[1], 0
        head, data = head + info, data + size
    return [*shards, range(first, len(tensors))]


def _head_bytes(metadata: Sequence[KeyValue]) -> int:
    """Bytes of the header of a shard before its tensors, without padding."""
    pieces = [
        piece for kv in (*metadata, *split_metadata(0, 1, 1)) for piece in (_string(kv.key, kv.key), *_encode_value(kv))
    ]
    return len(MAGIC) + 20 + sum(map(len, pieces))


def split_metadata(index: int, count: int, tensors: int) -> tuple[KeyValue, ...]:
    """The entries that make a file shard `index` of `count` of a model with `tensors` tensors in total.

    Only the first shard carries the model's own entries, before these.
    """
    return (
        KeyValue("split.no", "u16", index),
        KeyValue("split.count", "u16", count),
        KeyValue("split.tensors.count", "i32", tensors),
    )


def shard_name(stem: str, index: int, count: int) -> str:
    """File name of shard `index` (from 0) of `count`: model-00001-of-00003.gguf."""
    return f"{stem}-{index + 1:05d}-of-{count:05d}.gguf"


def shard_paths(path: Path, elsewhere: Collection[Path] = ()) -> tuple[Path, ...]:
    """All shards of the split GGUF that `path` is a shard of, in order; just `path` when it is not split.

    Those `elsewhere` need not be there. Raises InputError naming the shards that are missing.
    """
    match = SHARD_NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        hint = "rename it as it was published"
        raise InputError(f"{shown(path)} is named as shard {number} of {count}", path=str(path), hint=hint)
    paths = tuple(path.with_name(shard_name(match["stem"], index, count)) for index in range(count))
    missing = [shard.name for shard in paths if shard not in elsewhere and not shard.exists()]
    if missing:
        what = f"{len(missing)} of {counted(count, 'shard', 'is', 'are')} missing: {listed(missing)}"
        raise InputError(what, path=str(path.with_name(missing[0])), hint="fetch all shards into one folder")
    return paths


def require_whole_split(files: Sequence[GGUFFile]) -> None:
    """Raise InputError unless the files are all shards of one model, in order, and share no tensor."""
    total = sum(len(file.tensors) for file in files)
    names: set[str] = set()
    for index, file in enumerate(files):
        for expected in split_metadata(index, len(files), total):
            found = file.get(expected.key)
            if found is None and len(files) == 1:
                continue  # a file that was never split
            if found is None or found.array or found.value != expected.value:
                value = "missing" if found is None else shown(repr(found.value))
                why = f"{shown(file.path)}: {expected.key} is {value}, expected {expected.value!r}"
                hint = "fetch all shards of one model, under the names they were published with"
                raise InputError(why, path=str(file.path), key=expected.key, hint=hint)
        for tensor in file.tensors:
            if tensor.name in names:
                why = f'{shown(file.path)}: tensor "{tensor.name}" is in an earlier shard too'
                raise InputError(why, path=str(file.path), tensor=tensor.name, hint="fetch the shards again")
            names.add(tensor.name)
