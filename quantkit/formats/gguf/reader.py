"""The bounded GGUF reader: every claim of a header is checked against the size of the file before it is believed.

Layout (gguf.h; all numbers little-endian):

    "GGUF"  u32 version  u64 tensors  u64 entries
    entries x  string key   u32 kind   value          string = u64 length, bytes
                                                      array  = u32 kind, u64 count, values
    tensors x  string name  u32 dims   u64 sizes[dims] (row length first)   u32 type   u64 offset
    padding to the alignment, then the data of each tensor, padded likewise; offsets count from the first

Accepts what gguf_init_from_file (gguf.cpp) accepts, except: names must be printable UTF-8, the alignment at most
64 KiB, and counts and header within `Limits`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from struct import Struct, unpack_from
from sys import byteorder
from typing import NoReturn

from quantkit.errors import InputError
from quantkit.formats.gguf.types import (
    ALIGNMENT_KEY,
    ARRAY,
    DEFAULT_ALIGNMENT,
    KINDS,
    MAGIC,
    MAX_DIMS,
    MAX_NAME_BYTES,
    REMOVED_TYPES,
    STRUCT_CODES,
    VERSION,
    GGUFFile,
    GGUFTensor,
    ggml_type,
    padded,
)
from quantkit.metadata import KeyValue, Kind, Scalar
from quantkit.records import record
from quantkit.untrusted import InputFile, open_input, shown

MAX_ALIGNMENT = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1  # the GGUF specification's own bound
FIRST_READ = 1 << 16
U64 = Struct("<Q")

# The smallest possible entry (one-letter key, a byte) and tensor info (no name, no dims): they bound the counts.
MIN_ENTRY_BYTES = 8 + 1 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

# What other first bytes mean. The four old formats spell their names backwards, being little-endian numbers.
OTHER_MAGICS = {
    b"lmgg": "a GGML file of 2023 (before GGUF)",
    b"fmgg": "a GGMF file of 2023 (before GGUF)",
    b"tjgg": "a GGJT file of 2023 (before GGUF)",
    b"algg": "a GGLA adapter of 2023 (before GGUF)",
    b"FUGG": "a GGUF file with reversed byte order",
    b"PK\x03\x04": "a zip archive (perhaps a PyTorch pickle)",
}


@record
class Limits:
    """Budgets of the reader, above real files: 262,144 tokens with 515,000 merges take 20 MB and 780,000 strings."""

    header_bytes: int = 64 << 20
    entries: int = 1 << 16
    tensors: int = 200_000
    strings: int = 1 << 22  # strings and bools over all arrays: these become Python objects


DEFAULT_LIMITS = Limits()


def read_gguf(path: Path, limits: Limits = DEFAULT_LIMITS) -> GGUFFile:
    """Parse the header of a GGUF file. Raises InputError naming key or tensor for anything inconsistent."""
    source = open_input(path)
    try:
        return parse_gguf(source, limits)
    finally:
        source.close()


def parse_gguf(source: InputFile, limits: Limits = DEFAULT_LIMITS) -> GGUFFile:
    """Parse the header of an open GGUF file, as `read_gguf` does."""
    window = _Window(source, limits)
    version = _read_version(window)
    tensor_count, entry_count = window.u64("the tensor count"), window.u64("the entry count")
    window.check_count("tensors", tensor_count, limits.tensors, MIN_TENSOR_BYTES)
    window.check_count("metadata entries", entry_count, limits.entries, MIN_ENTRY_BYTES)
    metadata = _read_metadata(window, entry_count)
    alignment = _alignment(window, metadata)
    tensors, data_start = _read_tensors(window, tensor_count, alignment)
    return GGUFFile(source.path, version, metadata, tensors, alignment, data_start, source.stamp)


class _Window:
    """The part of the file read so far. It grows by what the parse has reached, never by what a header claims."""

    def __init__(self, source: InputFile, limits: Limits) -> None:
        self.source = source
        self.data = b""
        self.position = 0
        self.end = min(source.nbytes, limits.header_bytes)
        self.strings = limits.strings

    def fail(self, why: str, *, key: str | None = None, tensor: str | None = None, hint: str | None = None) -> NoReturn:
        raise InputError(
            f"{shown(self.source.path)}: {why}",
            path=str(self.source.path),
            key=key,
            tensor=tensor,
            hint=hint or "the file is damaged or hostile: fetch it again from a source you trust",
        )

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def need(self, nbytes: int, what: str) -> None:
        """Make the next `nbytes` bytes available."""
        if nbytes > self.remaining:
            if self.end < self.source.nbytes:
                self.fail(f"the header is larger than {self.end:,} bytes, at {what}")
            where = f"byte {self.position:,} of {self.end:,}"
            self.fail(f"{what} needs {nbytes:,} bytes at {where}", hint="the file is truncated: fetch it again")
        missing = self.position + nbytes - len(self.data)
        if missing > 0:
            grown = min(len(self.data) + max(missing, len(self.data), FIRST_READ), self.end)
            self.data += self.source.read(len(self.data), grown).tobytes()

    def take(self, nbytes: int, what: str) -> bytes:
        self.need(nbytes, what)
        self.position += nbytes
        return self.data[self.position - nbytes : self.position]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def check_count(self, what: str, count: int, limit: int, least_bytes: int) -> None:
        """Reject a count that the rest of the file cannot hold, or that is beyond the budget."""
        if count * least_bytes > self.remaining:
            self.fail(f"claims {count:,} {what}, {self.remaining:,} bytes remain")
        if count > limit:
            self.fail(f"claims {count:,} {what}, at most {limit:,} are read")

    def name(self, limit: int, what: str) -> str:
        """A printable, non-empty UTF-8 string of at most `limit` bytes."""
        length = self.u64(what)
        if length > limit:
            self.fail(f"{what} has {length:,} bytes, at most {limit:,} are allowed")
        raw = self.take(length, what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8: {shown(raw)}")
        if not text.isprintable() or not text:
            self.fail(f'{what} is "{shown(text)}": names must be printable and not empty')
        return text


def _read_version(window: _Window) -> int:
    magic = window.take(4, "the magic number")
    if magic != MAGIC:
        known = OTHER_MAGICS.get(magic)
        what = f"this is {known}" if known else f'it begins with "{shown(magic)}"'
        window.fail(f"not a GGUF file: {what}", hint="give a GGUF file of version 2 or 3")
    version = window.u32("the version")
    if version and version & 0xFFFF == 0:
        window.fail("big-endian GGUF (made for another kind of processor)", hint="use the little-endian file")
    if version not in {2, VERSION}:
        window.fail(f"GGUF version {version}, versions 2 and {VERSION} are read", hint="convert the model again")
    return version


def _read_metadata(window: _Window, count: int) -> tuple[KeyValue, ...]:
    entries: dict[str, KeyValue] = {}
    for index in range(count):
        key = window.name(MAX_KEY_BYTES, f"the key of metadata entry {index}")
        if key in entries:
            window.fail(f'duplicate key "{shown(key)}"', key=key)
        entries[key] = _read_value(window, key)
    return tuple(entries.values())


def _read_value(window: _Window, key: str) -> KeyValue:
    what = f'the value of "{shown(key)}"'
    number = window.u32(what)
    if number == ARRAY:
        return _read_array(window, key, what)
    kind = KINDS.get(number)
    if kind is None:
        window.fail(f"{what} has unknown kind {number}", key=key)
    if kind == "string":
        raw = window.take(window.u64(what), what)
        return KeyValue(key, kind, _text(raw))
    code = STRUCT_CODES[kind]
    value: Scalar = unpack_from(f"<{code}", window.take(Struct(code).size, what))[0]
    return KeyValue(key, kind, value)


def _read_array(window: _Window, key: str, what: str) -> KeyValue:
    number, count = window.u32(what), window.u64(what)
    if number == ARRAY:
        window.fail(f"{what} is an array of arrays, which GGUF readers reject", key=key)
    kind = KINDS.get(number)
    if kind is None:
        window.fail(f"{what} is an array of unknown kind {number}", key=key)
    size = 8 if kind == "string" else Struct(STRUCT_CODES[kind]).size
    if count * size > window.remaining:
        window.fail(f"{what} claims {count:,} elements, {window.remaining:,} bytes remain", key=key)
    if kind in {"string", "bool"}:
        if count > window.strings:
            window.fail(f"{what} claims {count:,} elements, {window.strings:,} are within the budget", key=key)
        window.strings -= count
    if kind == "string":
        return KeyValue(key, kind, tuple(_strings(window, count, what)), array=True)
    raw = window.take(count * size, what)
    if kind == "bool":
        return KeyValue(key, kind, tuple(byte != 0 for byte in raw), array=True)
    return KeyValue(key, kind, _numbers(kind, raw), array=True)


def _numbers(kind: Kind, raw: bytes) -> array[int] | array[float]:
    values: array[int] | array[float] = array(STRUCT_CODES[kind])
    values.frombytes(raw)
    if byteorder == "big":
        values.byteswap()
    return values


def _strings(window: _Window, count: int, what: str) -> Iterator[str | bytes]:
    """The strings of an array. Written out instead of calling `take`: vocabularies have hundreds of thousands."""
    for _ in range(count):
        start = window.position + 8
        if start > len(window.data):
            window.need(8, what)
        (length,) = U64.unpack_from(window.data, window.position)
        window.position = start
        if start + length > len(window.data):
            window.need(length, what)
        window.position = start + length
        yield _text(window.data[start : start + length])


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _alignment(window: _Window, metadata: tuple[KeyValue, ...]) -> int:
    entry = next((entry for entry in metadata if entry.key == ALIGNMENT_KEY), None)
    if entry is None:
        return DEFAULT_ALIGNMENT
    if entry.kind != "u32" or entry.array or not isinstance(entry.value, int):
        window.fail(f"{ALIGNMENT_KEY} has kind {entry.kind}, expected u32", key=ALIGNMENT_KEY)
    if not 0 < entry.value <= MAX_ALIGNMENT or entry.value & (entry.value - 1):
        why = f"{ALIGNMENT_KEY} is {entry.value:,}, expected a power of two up to {MAX_ALIGNMENT:,}"
        window.fail(why, key=ALIGNMENT_KEY)
    return entry.value


def _read_tensors(window: _Window, count: int, alignment: int) -> tuple[tuple[GGUFTensor, ...], int]:
    """All tensor infos and where their data starts."""
    infos = [_read_tensor(window, index) for index in range(count)]
    (twice, times), *_ = Counter(info.name for info in infos).most_common(1) or [("", 0)]
    if times > 1:
        window.fail(f'duplicate tensor "{twice}"', tensor=twice)
    data_start = padded(window.position, alignment)
    if not infos:
        return (), min(data_start, window.source.nbytes)
    expected = data_start
    tensors = []
    for info in infos:
        offset = info.offset + data_start
        if offset != expected:
            why = f'tensor "{info.name}" is at byte {offset:,}, expected {expected:,}: data must follow without gap'
            window.fail(why, tensor=info.name)
        if offset + info.nbytes > window.source.nbytes:
            why = f'tensor "{info.name}" ends at byte {offset + info.nbytes:,} of {window.source.nbytes:,}'
            window.fail(why, tensor=info.name, hint="the file is truncated: fetch it again")
        tensors.append(GGUFTensor(info.name, info.qtype, info.type_id, info.shape, offset, info.nbytes))
        expected = padded(offset + info.nbytes, alignment)
    return tuple(tensors), data_start


def _read_tensor(window: _Window, index: int) -> GGUFTensor:
    """One tensor info; its offset is still relative to the data."""
    name = window.name(MAX_NAME_BYTES, f"the name of tensor {index}")
    what = f'the info of tensor "{name}"'
    dims = window.u32(what)
    if dims > MAX_DIMS:
        window.fail(f'tensor "{name}" has {dims:,} dimensions, at most {MAX_DIMS} are allowed', tensor=name)
    shape = tuple(reversed([window.u64(what) for _ in range(dims)]))
    if prod(max(size, 1) for size in shape) >= 1 << 63:
        window.fail(f'tensor "{name}" has the impossible shape {shape}', tensor=name)
    type_id = window.u32(what)
    ggml = ggml_type(type_id)
    if ggml is None:
        why = "was removed from ggml" if type_id in REMOVED_TYPES else "is unknown"
        window.fail(f'tensor "{name}" has type {type_id}, which {why}', tensor=name, hint="convert the model again")
    row = shape[-1] if shape else 1
    if row % ggml.block:
        why = f'tensor "{name}" has rows of {row:,} weights, not a multiple of the {ggml.block} of {ggml.name}'
        window.fail(why, tensor=name)
    nbytes = prod(shape) // ggml.block * ggml.nbytes
    return GGUFTensor(name, ggml.name, type_id, shape, window.u64(what), nbytes)
