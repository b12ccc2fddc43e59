"""Importance matrices: mean squared activations per weight matrix and input column, as llama-imatrix writes them.

Two formats are read (common/imatrix-loader.cpp):

    GGUF     imatrix.datasets (strings), imatrix.chunk_count u32, imatrix.chunk_size u32, and for every weight
             <name>.in_sum2  f32 (matrices, cols)   sum of x**2 over tokens
             <name>.counts   f32 (matrices, 1)      tokens
    legacy   i32 entries, then for each   i32 length, name, i32 calls, i32 n, f32[n]   (values are mean * calls)
             then optionally              i32 chunks, i32 length, dataset name

Sizes are checked against the file before anything is allocated.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.formats.gguf.file import TensorEntry, encode_header, parse_gguf
from quantkit.formats.gguf.types import MAGIC, GGUFFile, GGUFTensor
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tensors import F32
from quantkit.units import counted
from quantkit.untrusted import InputFile, listed, open_input, shown

I64 = NDArray[np.int64]

DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
SUMS, COUNTS = ".in_sum2", ".counts"
F32_TYPE = 0  # GGML_TYPE_F32
HASH_BYTES = 1 << 24
MAX_NAME_BYTES = 1024
MAX_COUNT = 2.0**62  # tokens; more do not fit int64
MAX_OVERRIDE_BYTES = 127  # llama_model_kv_override.val_str, less its NUL
EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
UNMEASURED = EMBEDDINGS | {"output.weight"}


@record
class Entry:
    """Statistics of one weight: `sums` of squared inputs, float32 (matrices, cols), and token `counts`, (matrices,).

    A weight of several matrices may have one count for all: then `sums` has one row of matrices * cols.
    """

    sums: F32
    counts: I64

    def importance(self) -> F32:
        """Mean squared input per column, float32 like `sums`. A matrix that saw no token counts as all ones."""
        counts = self.counts.astype(np.float32)[:, None]
        means = self.sums / np.where(counts > 0, counts, np.float32(1))
        return np.where(counts > 0, means, np.float32(1))


@record
class Imatrix:
    """An importance matrix as read. `file` is its name without folder, `sha256` the hash of its bytes.

    `chunks` is how many pieces of `chunk_size` tokens were seen (0: unknown), `datasets` the texts they came from.
    """

    file: str
    entries: Mapping[str, Entry]
    chunks: int
    chunk_size: int
    datasets: tuple[str, ...]
    sha256: str

    def provenance(self) -> list[KeyValue]:
        """The metadata that llama-quantize writes about an imatrix (tools/quantize/quantize.cpp).

        Differs in the file: the name without its folder, so that equal inputs give equal bytes on any machine.
        """
        found = [KeyValue("quantize.imatrix.file", "string", _cut(self.file))]
        if self.datasets:
            found.append(KeyValue("quantize.imatrix.dataset", "string", _cut(self.datasets[0])))
        found.append(KeyValue("quantize.imatrix.entries_count", "u32", len(self.entries)))
        if self.chunks > 0:
            found.append(KeyValue("quantize.imatrix.chunks_count", "u32", self.chunks))
        return found


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:MAX_OVERRIDE_BYTES]


STATISTICS = ".safetensors"


def read_imatrix(path: Path) -> Imatrix:
    """Read an imatrix of either format, told apart by the magic number.

    Raises InputError for a file that is neither, is truncated or inconsistent, or holds values that are not finite
    or negative, which no sum of squares is. Memory: the file's size.
    """
    if path.suffix == STATISTICS:
        message = f"{shown(path)} is no importance matrix: by its name statistics of quantkit calibrate"
        raise InputError(message, path=str(path), key="imatrix", hint=f"--calib {shown(path)}")
    source = open_input(path)
    try:
        legacy = source.nbytes < len(MAGIC) or source.read(0, len(MAGIC)).tobytes() != MAGIC
        found = _read_legacy(source) if legacy else _read_gguf(source)
        source.unchanged()
        return found
    finally:
        source.close()


def _fail(source: InputFile, why: str, *, tensor: str | None = None, key: str | None = None) -> NoReturn:
    raise InputError(
        f"{shown(source.path)}: {why}",
        path=str(source.path),
        tensor=tensor,
        key=key,
        hint="make it again with llama-imatrix from the unquantized model",
    )


def _sha256(source: InputFile) -> str:
    digest = hashlib.sha256()
    for start in range(0, source.nbytes, HASH_BYTES):
        digest.update(source.read(start, min(start + HASH_BYTES, source.nbytes)).data)
    return digest.hexdigest()


def _checked(source: InputFile, name: str, sums: F32, counts: F32) -> Entry:
    """An entry whose values can be what they claim. `counts` are float32 as stored, rounded half up to integers."""
    for what, values, limit in (("sum", sums, np.inf), ("count", counts, MAX_COUNT)):
        bad = ~((values >= 0) & (values < limit))  # NaN compares false
        if bad.any():
            value = values.flat[int(np.argmax(bad))]
            _fail(source, f"{shown(name)} has a {what} of {value}, expected finite and not negative", tensor=name)
    return Entry(sums, np.floor(counts.astype(np.float64) + 0.5).astype(np.int64))


def _read_gguf(source: InputFile) -> Imatrix:
    file = parse_gguf(source)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    entries: dict[str, Entry] = {}
    for name in sorted({t.removesuffix(s) for t in tensors for s in (SUMS, COUNTS) if t.endswith(s)}):
        sums, counts = tensors.get(name + SUMS), tensors.get(name + COUNTS)
        if sums is None or counts is None:
            _fail(source, f"{shown(name)} has only one of {SUMS} and {COUNTS}", tensor=name)
        values, tokens = _floats(source, sums), _floats(source, counts)
        if not tokens.size or values.size % tokens.size or not values.size:
            _fail(source, f"{shown(name)} has {values.size:,} sums and {tokens.size:,} counts", tensor=name)
        entries[name] = _checked(source, name, values.reshape(tokens.size, -1), tokens)
    if not entries:
        _fail(source, "holds no importance data: this is another kind of GGUF")
    chunks, chunk_size, datasets = _gguf_facts(source, file)
    return Imatrix(source.path.name, entries, chunks, chunk_size, datasets, _sha256(source))


def _gguf_facts(source: InputFile, file: GGUFFile) -> tuple[int, int, tuple[str, ...]]:
    numbers = []
    for key in (CHUNK_COUNT, CHUNK_SIZE):
        entry = file.get(key)
        if entry is None or entry.kind != "u32" or entry.array or not isinstance(entry.value, int):
            _fail(source, f"{key} is missing or not u32", key=key)
        numbers.append(entry.value)
    entry = file.get(DATASETS)
    if entry is None or entry.kind != "string" or not entry.array or not isinstance(entry.value, tuple):
        _fail(source, f"{DATASETS} is missing or not an array of strings", key=DATASETS)
    return numbers[0], numbers[1], tuple(_text(name) for name in entry.value)


def _text(raw: object) -> str:
    return raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else str(raw)


def _floats(source: InputFile, tensor: GGUFTensor) -> F32:
    if tensor.type_id != F32_TYPE:
        _fail(source, f"{shown(tensor.name)} has type {tensor.qtype}, expected f32", tensor=tensor.name)
    return source.read(tensor.offset, tensor.offset + tensor.nbytes).view("<f4").astype(np.float32, copy=False)


def _read_legacy(source: InputFile) -> Imatrix:
    [count] = _numbers(source, 0, 1, "the entry count")
    if not 1 <= count <= source.nbytes // 17:  # an entry takes 3 numbers, a name and a value
        _fail(source, f"neither GGUF nor a legacy imatrix: it claims {count:,} entries in {source.nbytes:,} bytes")
    entries: dict[str, Entry] = {}
    position = 4
    for index in range(count):
        name, position = _legacy_text(source, position, f"the name of entry {index}")
        calls, length = _numbers(source, position, 2, f"the counts of {shown(name)}")
        start, position = position + 8, position + 8 + 4 * length
        if not length >= 1 or position > source.nbytes:
            _fail(source, f"{shown(name)} claims {length:,} values, beyond the end of the file", tensor=name)
        if name in entries:
            _fail(source, f"{shown(name)} is there twice", tensor=name)
        values = source.read(start, position).view("<f4").astype(np.float32, copy=False).reshape(1, -1)
        # The reader divides by the calls only if there were any: one call leaves the values as they are.
        entries[name] = _checked(source, name, values, np.array([max(calls, 1)], np.float32))
    chunks, dataset = 0, ""
    if position < source.nbytes:
        [chunks] = _numbers(source, position, 1, "the chunk count")
    if position + 4 < source.nbytes:
        dataset, _ = _legacy_text(source, position + 4, "the dataset")
    datasets = (dataset,) if dataset else ()
    return Imatrix(source.path.name, dict(sorted(entries.items())), max(chunks, 0), 0, datasets, _sha256(source))


def _numbers(source: InputFile, position: int, count: int, what: str) -> tuple[int, ...]:
    if position + 4 * count > source.nbytes:
        _fail(source, f"the file ends inside {what}")
    return struct.unpack(f"<{count}i", source.read(position, position + 4 * count).data)


def _legacy_text(source: InputFile, position: int, what: str) -> tuple[str, int]:
    """A string with its length before it, and where it ends."""
    [length] = _numbers(source, position, 1, what)
    stop = position + 4 + length
    if not 0 <= length <= MAX_NAME_BYTES or stop > source.nbytes:
        _fail(source, f"{what} claims {length:,} bytes")
    return _text(source.read(position + 4, stop).tobytes().partition(b"\0")[0]), stop


def encode_imatrix_gguf(imatrix: Imatrix) -> bytes:
    """The imatrix as a GGUF file, as llama-imatrix writes it (tools/imatrix, save_imatrix).

    A matrix of a legacy file keeps its values as sums over its calls, which gives the same importance.
    """
    metadata = (
        KeyValue("general.type", "string", "imatrix"),
        KeyValue(DATASETS, "string", imatrix.datasets, array=True),
        KeyValue(CHUNK_COUNT, "u32", imatrix.chunks),
        KeyValue(CHUNK_SIZE, "u32", imatrix.chunk_size),
    )
    arrays = {
        name + suffix: values
        for name, entry in sorted(imatrix.entries.items())
        for suffix, values in ((SUMS, entry.sums), (COUNTS, entry.counts.astype(np.float32)[:, None]))
    }
    entries = [TensorEntry(name, _trimmed(a.shape), F32_TYPE, a.nbytes) for name, a in arrays.items()]
    header = encode_header(metadata, entries)
    out = bytearray(header.data.ljust(header.nbytes, b"\0"))
    for offset, values in zip(header.offsets, arrays.values(), strict=True):
        out[offset : offset + values.nbytes] = values.astype("<f4").tobytes()
    return bytes(out)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without outer dimensions of one, as ggml's writer stores it."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def match_importance(
    imatrix: Imatrix, shapes: Mapping[str, tuple[int, ...]], known: Collection[str]
) -> tuple[dict[str, F32], tuple[tuple[str, str], ...]]:
    """The importance weights of the tensors in `shapes` (checkpoint order), float32 (matrices, cols), and warnings.

    `known` are the names of all tensors of the model. As llama-quantize: an entry must have one value per column
    and matrix; a tensor without entry goes without weights (a warning, except for the embedding and the output,
    which llama-imatrix does not measure), and an entry of the wrong size for the embedding is ignored. Raises
    InputError for an imatrix of another model: a size that does not fit, or no tensor covered at all.
    """
    found: dict[str, F32] = {}
    covered = (
        f"{sum(name in imatrix.entries for name in shapes)} of {counted(len(shapes), 'tensor', 'is', 'are')} covered"
    )
    for name, shape in shapes.items():
        entry = imatrix.entries.get(name)
        matrices, cols = (shape[-3] if len(shape) > 2 else 1), shape[-1]
        if entry is not None and entry.sums.size == matrices * cols:
            found[name] = np.ascontiguousarray(entry.importance().reshape(matrices, cols))
        elif entry is not None and name not in EMBEDDINGS:
            _wrong_model(imatrix, f"{name} has {entry.sums.size:,} values, expected {matrices * cols:,}", covered, name)
    missing = [name for name in shapes if name not in found and name not in UNMEASURED]
    if missing and not found:
        _wrong_model(imatrix, f"it knows {listed(sorted(imatrix.entries), 2)}", covered, missing[0])
    foreign = [name for name in imatrix.entries if name not in known and name not in UNMEASURED]
    notes = []
    if missing:
        notes.append(("imatrix-missing", f"no importance weights for {listed(missing, 3)}: {covered}"))
    if foreign:
        notes.append(("imatrix-foreign", f"the imatrix knows tensors that this model lacks: {listed(foreign, 3)}"))
    return found, tuple(notes)


def _wrong_model(imatrix: Imatrix, why: str, covered: str, tensor: str) -> NoReturn:
    raise InputError(
        f"imatrix {shown(imatrix.file)} is of another model: {why} ({covered})",
        tensor=tensor,
        path=imatrix.file,
        hint="make one with llama-imatrix from this very model",
    )
