"""The GGUF header writer against the gguf package (bytes) and ggml's own reader (through ctypes)."""

from __future__ import annotations

import ctypes as c
import io
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ggml, gguf_files

from quantkit.errors import InputError
from quantkit.formats.gguf.file import (
    GGML_TYPES,
    TensorEntry,
    encode_header,
    read_gguf,
    require_whole_split,
    shard_name,
    shard_paths,
    split_by_bytes,
    split_metadata,
)
from quantkit.formats.gguf.types import KIND_NUMBERS, REMOVED_TYPES
from quantkit.metadata import KeyValue
from quantkit.qtypes import base

METADATA = [
    KeyValue("general.architecture", "string", "llama"),
    KeyValue("llama.context_length", "u32", 4096),
    KeyValue("llama.rope.freq_base", "f32", 0.1),
    KeyValue("a.u8", "u8", 255),
    KeyValue("a.i8", "i8", -128),
    KeyValue("a.u16", "u16", 65535),
    KeyValue("a.i16", "i16", -32768),
    KeyValue("a.i32", "i32", -(2**31)),
    KeyValue("a.u64", "u64", 2**64 - 1),
    KeyValue("a.i64", "i64", -(2**63)),
    KeyValue("a.f64", "f64", 0.1),
    KeyValue("a.bool", "bool", True),
    KeyValue("tokenizer.ggml.tokens", "string", ["<s>", "▁größer", "日本", b"\xff\x00"], array=True),
    KeyValue("tokenizer.ggml.scores", "f32", [0.0, -1.5, 3.25, 1e-8], array=True),
    KeyValue("tokenizer.ggml.token_type", "i32", [1, 2, -3, 4], array=True),
    KeyValue("flags", "bool", [True, False], array=True),
]
TENSORS = [
    TensorEntry("token_embd.weight", (7, 32), 0, 7 * 32 * 4),
    TensorEntry("blk.0.attn_q.weight", (5, 64), 8, 5 * 2 * 34),
    TensorEntry("blk.0.ffn_up_exps.weight", (2, 3, 256), 12, 6 * 144),
    TensorEntry("output_norm.weight", (32,), 1, 64),
    TensorEntry("empty", (0, 4), 0, 0),
    TensorEntry("scalar", (), 0, 4),
]


def package_header(metadata: Sequence[KeyValue], tensors: Sequence[TensorEntry], path: Path) -> bytes:
    """The header that gguf.GGUFWriter writes for the same entries."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].clear()
    types = gguf.GGUFValueType
    for entry in metadata:
        kind = types(KIND_NUMBERS[entry.kind])
        if entry.array:
            writer.add_key_value(entry.key, entry.value, types.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(entry.key, entry.value, kind)
    for tensor in tensors:
        raw = np.zeros(tensor.nbytes, np.uint8)
        info = gguf.gguf_writer.TensorInfo(tensor.shape, GGMLQuantizationType(tensor.type_id), tensor.nbytes, raw)
        writer.tensors[0][tensor.name] = info
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_equals_the_gguf_package_byte_for_byte(tmp_path: Path) -> None:
    header = encode_header(METADATA, TENSORS)
    theirs = package_header(METADATA, TENSORS, tmp_path / "theirs.gguf")
    assert header.nbytes == len(theirs)
    assert header.data == theirs[: len(header.data)]
    assert not any(theirs[len(header.data) :])


def write_with_data(path: Path, metadata: Sequence[KeyValue], tensors: Sequence[TensorEntry]) -> list[bytes]:
    """A whole file: the header, and random tensor data at the offsets it promises."""
    header = encode_header(metadata, tensors)
    rng = np.random.default_rng(0)
    file = io.BytesIO(header.data.ljust(header.nbytes, b"\0"))
    stored = []
    for tensor, offset in zip(tensors, header.offsets, strict=True):
        stored.append(rng.bytes(tensor.nbytes))
        file.seek(offset)
        file.write(stored[-1])
    path.write_bytes(file.getvalue())
    assert path.stat().st_size == header.nbytes
    return stored


def test_gguf_package_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    metadata = [entry for entry in METADATA if entry.key != "tokenizer.ggml.tokens"]  # the package wants UTF-8
    tensors = [tensor for tensor in TENSORS if tensor.name != "empty"]  # and no empty tensors
    stored = write_with_data(path, metadata, tensors)
    reader = gguf.GGUFReader(path)
    for entry in metadata:
        expected = np.float32(entry.value) if entry.kind == "f32" else entry.value
        found = reader.fields[entry.key].contents()
        assert list(found) == list(np.float32(entry.value)) if entry.array else found == expected, entry.key
    for tensor, raw, found in zip(tensors, stored, reader.tensors, strict=True):
        assert (found.name, tuple(reversed(found.shape.tolist()))) == (tensor.name, tensor.shape)
        assert found.data.tobytes() == raw


def test_ggml_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_with_data(path, METADATA, TENSORS)
    found = gguf_files.read(path)
    assert found is not None
    assert found.keys == tuple((entry.key, 9 if entry.array else KIND_NUMBERS[entry.kind]) for entry in METADATA)
    offsets = encode_header(METADATA, TENSORS).offsets
    assert found.tensors == tuple((t.name, t.type_id, o, t.nbytes) for t, o in zip(TENSORS, offsets, strict=True))


SCALARS = {
    "u8": st.integers(0, 255),
    "i16": st.integers(-(2**15), 2**15 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "f32": st.floats(width=32, allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(max_size=20) | st.binary(max_size=20),
}
KEYS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=20)
ENTRIES = st.sampled_from(sorted(SCALARS)).flatmap(
    lambda kind: st.one_of(
        st.builds(KeyValue, KEYS, st.just(kind), SCALARS[kind]),
        st.builds(KeyValue, KEYS, st.just(kind), st.lists(SCALARS[kind], max_size=4).map(tuple), st.just(True)),
    )
)


def _as_text(value: object) -> object:
    """Bytes that are UTF-8 come back as text."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(ENTRIES, max_size=6, unique_by=lambda e: e.key), st.lists(st.integers(0, 5), max_size=4))
def test_reads_back_what_it_encoded(tmp_path_factory: pytest.TempPathFactory, metadata: list[KeyValue], rows) -> None:
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    tensors = [TensorEntry(f"t{i}", (n, 32), 2, n * 18) for i, n in enumerate(rows)]
    header = encode_header(metadata, tensors)
    path.write_bytes(header.data.ljust(header.nbytes, b"\0"))
    file = read_gguf(path)
    assert [(e.key, e.kind, e.array) for e in file.metadata] == [(e.key, e.kind, e.array) for e in metadata]
    for found, entry in zip(file.metadata, metadata, strict=True):
        if entry.array:
            assert list(found.value) == [_as_text(v) for v in entry.value]
        else:
            assert found.value == _as_text(entry.value)
    assert tuple(t.offset for t in file.tensors) == header.offsets
    assert file.data_end == file.nbytes == header.nbytes


@pytest.mark.parametrize(
    "entry",
    [
        KeyValue("k", "u32", 1 << 32),
        KeyValue("k", "u8", -1),
        KeyValue("k", "f32", 1e39),
        KeyValue("k", "i32", 1.5),
        KeyValue("k", "u32", [1, "2"], array=True),
        KeyValue("k", "string", "\ud800"),
        KeyValue("k", "string", ["ok", "\ud800"], array=True),
    ],
)
def test_values_that_do_not_fit_name_their_key(entry: KeyValue) -> None:
    with pytest.raises(InputError) as caught:
        encode_header([entry], [])
    assert caught.value.key == "k"


def test_alignment_follows_the_metadata(tmp_path: Path) -> None:
    metadata = [KeyValue("general.alignment", "u32", 64)]
    header = encode_header(metadata, TENSORS)
    assert all(offset % 64 == 0 for offset in (*header.offsets, header.nbytes, len(header.data)))
    (tmp_path / "x.gguf").write_bytes(header.data.ljust(header.nbytes, b"\0"))
    assert read_gguf(tmp_path / "x.gguf").data_end == header.nbytes


def test_large_vocabulary(tmp_path: Path) -> None:
    tokens = [f"▁token{i}" for i in range(262_144)]
    scores = [-float(i) for i in range(len(tokens))]
    entries = [KeyValue("tokens", "string", tokens, array=True), KeyValue("scores", "f32", scores, array=True)]
    (tmp_path / "x.gguf").write_bytes(encode_header(entries, []).data)
    file = read_gguf(tmp_path / "x.gguf")
    assert list(file.metadata[0].value) == tokens
    assert list(file.metadata[1].value) == scores


@pytest.mark.parametrize("type_id", range(64))
def test_type_table_is_ggmls(type_id: int) -> None:
    so = ggml.library().so
    so.ggml_type_size.restype = c.c_size_t
    so.ggml_type_size.argtypes = [c.c_int]
    so.ggml_type_name.restype = c.c_char_p
    so.ggml_type_name.argtypes = [c.c_int]
    known = GGML_TYPES.get(type_id)
    if known is None:
        assert type_id in REMOVED_TYPES or type_id >= 43
        assert type_id >= 43 or so.ggml_blck_size(type_id) == 0
        return
    assert (known.block, known.nbytes) == (so.ggml_blck_size(type_id), so.ggml_type_size(type_id))
    assert known.name == so.ggml_type_name(type_id).decode().lower()
    if type_id in set(GGMLQuantizationType) and known.name != "q8_1":  # the package has 40 bytes there, ggml 36
        assert GGML_QUANT_SIZES[GGMLQuantizationType(type_id)] == (known.block, known.nbytes)


@pytest.mark.parametrize("name", base.names())
def test_qtypes_agree_with_the_type_table(name: str) -> None:
    if name == "floats":
        pytest.skip("not a type")
    qtype = base.get(name)
    if qtype.gguf is not None:
        stored = GGML_TYPES[qtype.gguf]
        assert (stored.name, stored.block, stored.nbytes) == (qtype.name, qtype.block, qtype.nbytes)


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([10, 10, 10], 20, [range(2), range(2, 3)]),
        ([10, 10, 10], 30, [range(3)]),
        ([50, 10, 50], 20, [range(1), range(1, 2), range(2, 3)]),
        ([50], 20, [range(1)]),
        ([0, 0, 20, 0, 1], 20, [range(4), range(4, 5)]),
        ([], 20, [range(0)]),
    ],
)
def test_split_by_bytes(sizes: list[int], limit: int, expected: list[range]) -> None:
    assert split_by_bytes(sizes, limit) == expected


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 900))
def test_splits_as_the_gguf_package(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int) -> None:
    writer = gguf.GGUFWriter(None, "llama", split_max_size=limit)
    for index, nbytes in enumerate(sizes):
        writer.add_tensor(f"t{index}", np.zeros(nbytes, np.int8))
    theirs = [[int(name[1:]) for name in shard] for shard in writer.tensors]
    assert [list(part) for part in split_by_bytes(sizes, limit)] == theirs


def write_split(folder: Path, shards: int, **changes: KeyValue) -> list[Path]:
    paths = []
    for index in range(shards):
        own = {e.key: e for e in split_metadata(index, shards, shards)} | (changes if index == 1 else {})
        metadata = [*(METADATA if index == 0 else []), *own.values()]
        header = encode_header(metadata, [TensorEntry(f"t{index}", (8,), 0, 32)])
        paths.append(folder / shard_name("model", index, shards))
        paths[-1].write_bytes(header.data.ljust(header.nbytes, b"\0"))
    return paths


def test_split_files(tmp_path: Path) -> None:
    paths = write_split(tmp_path, 3)
    assert [p.name for p in paths] == [f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert all(shard_paths(path) == tuple(paths) for path in paths)
    files = [read_gguf(path) for path in paths]
    require_whole_split(files)
    assert shard_paths(tmp_path / "model.gguf") == (tmp_path / "model.gguf",)
    for wrong in (files[:2], files[::-1]):
        with pytest.raises(InputError, match="split"):
            require_whole_split(wrong)
    paths[1].unlink()
    with pytest.raises(InputError, match=r"1 of 3 shards are missing: model-00002-of-00003.gguf"):
        shard_paths(paths[0])
    with pytest.raises(InputError, match="shard 4 of 3"):
        shard_paths(tmp_path / "model-00004-of-00003.gguf")


@pytest.mark.parametrize(
    "change",
    [
        KeyValue("split.no", "u16", 2),
        KeyValue("split.count", "u16", 4),
        KeyValue("split.tensors.count", "i32", 2),
        KeyValue("split.count", "u16", [3], array=True),
    ],
)
def test_split_entries_must_agree(change: KeyValue, tmp_path: Path) -> None:
    files = [read_gguf(path) for path in write_split(tmp_path, 3, **{change.key: change})]
    with pytest.raises(InputError, match=change.key):
        require_whole_split(files)


def test_every_shard_carries_its_number(tmp_path: Path) -> None:
    paths = write_split(tmp_path, 2)
    header = encode_header([], [TensorEntry("t1", (8,), 0, 32)])
    paths[1].write_bytes(header.data.ljust(header.nbytes, b"\0"))
    with pytest.raises(InputError, match=r"split\.no is missing, expected 1"):
        require_whole_split([read_gguf(path) for path in paths])


def test_shards_share_no_tensor(tmp_path: Path) -> None:
    paths = write_split(tmp_path, 2)
    header = encode_header(split_metadata(1, 2, 2), [TensorEntry("t0", (8,), 0, 32)])
    paths[1].write_bytes(header.data.ljust(header.nbytes, b"\0"))
    with pytest.raises(InputError, match='tensor "t0" is in an earlier shard too'):
        require_whole_split([read_gguf(path) for path in paths])
