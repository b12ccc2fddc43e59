"""The legacy imatrix file, for consumers that read nothing else (tools/imatrix, save_imatrix_legacy).

i32 entries, then for each   i32 length, name, i32 calls, i32 n, f32[n]   (values are mean * calls)
then                         i32 chunks, i32 length, dataset name
"""

from __future__ import annotations

import struct

import numpy as np

from quantkit.formats.gguf.imatrix import Entry, Imatrix

CHUNK_SIZE = 512  # of an imatrix that does not say: llama-imatrix's default


def encode_imatrix_legacy(imatrix: Imatrix) -> bytes:
    """The imatrix as a legacy file, byte for byte as llama-imatrix writes it.

    Counts of single experts do not survive: one without tokens is stored as all ones, an entry without any tokens is
    left out. Of several datasets the last is named.
    """
    kept = {name: entry for name, entry in sorted(imatrix.entries.items()) if entry.counts.any()}
    out = bytearray(struct.pack("<i", len(kept)))
    for name, entry in kept.items():
        calls = -(-int(entry.counts.max()) // (imatrix.chunk_size or CHUNK_SIZE))
        out += _text(name) + struct.pack("<ii", calls, entry.sums.size)
        out += _values(entry, calls)
    dataset = imatrix.datasets[-1] if imatrix.datasets else ""
    return bytes(out + struct.pack("<i", imatrix.chunks) + _text(dataset))


def _values(entry: Entry, calls: int) -> bytes:
    """Means times calls, in float32 like the reference, whose reader divides again."""
    return (entry.importance() * np.float32(calls)).astype("<f4").tobytes()


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<i", len(raw)) + raw
