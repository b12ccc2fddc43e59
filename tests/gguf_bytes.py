"""GGUF files put together byte by byte, so that any claim of theirs can be made false."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

# enum gguf_type (gguf.h)
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, values: Sequence[bytes], count: int | None = None) -> bytes:
    return struct.pack("<IQ", kind, len(values) if count is None else count) + b"".join(values)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def info(name: bytes, dims: Sequence[int], type_id: int = 0, offset: int = 0) -> bytes:
    """`dims` as stored: row length first."""
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


@dataclass(frozen=True)
class Parts:
    """The parts of a file. A count left None is the true one; `data` follows padding to `alignment`."""

    magic: bytes = b"GGUF"
    version: int = 3
    entries: Sequence[bytes] = field(default_factory=lambda: [entry(b"general.architecture", STRING, string(b"llama"))])
    infos: Sequence[bytes] = ()
    data: bytes = b""
    tensor_count: int | None = None
    entry_count: int | None = None
    alignment: int = 32

    def encode(self) -> bytes:
        tensors = len(self.infos) if self.tensor_count is None else self.tensor_count
        entries = len(self.entries) if self.entry_count is None else self.entry_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, entries)
        head += b"".join(self.entries) + b"".join(self.infos)
        return head + b"\0" * (-len(head) % self.alignment) + self.data
