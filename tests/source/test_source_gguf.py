"""GGUF files as sources: float tensors exactly, quantized ones as the gguf package decodes them, split files."""

from __future__ import annotations

import os
from pathlib import Path

import gguf_bytes as g
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf_bytes import Parts

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.gguf.file import GGML_TYPES, TensorEntry, encode_header, shard_name, split_metadata
from quantkit.metadata import KeyValue
from quantkit.qtypes import base
from quantkit.source import open_source
from quantkit.tensors import FLOAT_DTYPES

METADATA = [KeyValue("general.architecture", "string", "llama"), KeyValue("general.name", "string", "Test")]
ROWS, COLS = 6, 512


def write_gguf(path: Path, metadata: list[KeyValue], tensors: list[tuple[TensorEntry, bytes]]) -> Path:
    header = encode_header(metadata, [entry for entry, _ in tensors])
    raw = bytearray(header.data.ljust(header.nbytes, b"\0"))
    for (_, data), offset in zip(tensors, header.offsets, strict=True):
        raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    return path


def random_tensor(type_id: int, name: str = "w") -> tuple[TensorEntry, bytes]:
    """Bytes of a type as its own encoder writes them, so that every scale is finite."""
    values = np.random.default_rng(type_id).standard_normal((ROWS, COLS), dtype=np.float32)
    stored = GGML_TYPES[type_id]
    raw = base.get(stored.name).encode(values, None).tobytes()
    return TensorEntry(name, (ROWS, COLS), type_id, ROWS * COLS // stored.block * stored.nbytes), raw


WHOLE = {np.int32: 26, np.int64: 27}
DECODABLE = sorted(i for i, t in GGML_TYPES.items() if t.name in base.names() and base.get(t.name).gguf == i)


@pytest.mark.parametrize("type_id", DECODABLE, ids=lambda i: GGML_TYPES[i].name)
def test_types_are_decoded_as_the_gguf_package_does(type_id: int, tmp_path: Path) -> None:
    entry, raw = random_tensor(type_id)
    checkpoint = open_source(str(write_gguf(tmp_path / "m.gguf", METADATA, [(entry, raw)])))
    assert (checkpoint.kind, checkpoint.name, checkpoint.config) == ("gguf", "m", {})
    ref = checkpoint.ref("w")
    try:
        expected = quants.dequantize(np.frombuffer(raw, np.uint8).reshape(ROWS, -1), GGMLQuantizationType(type_id))
    except (NotImplementedError, ValueError):
        pytest.skip(f"the gguf package that is installed does not decode {GGML_TYPES[type_id].name}")
    assert np.array_equal(ref.read(0, ROWS), expected.reshape(ROWS, COLS))
    assert np.array_equal(ref.read(2, 5), expected.reshape(ROWS, COLS)[2:5])
    assert ref.read_packed(0, ROWS).tobytes() == raw
    is_float = GGML_TYPES[type_id].name in {"f32", "f16", "bf16"}
    assert ref.info.dtype == (GGML_TYPES[type_id].name.upper() if is_float else GGML_TYPES[type_id].name)
    assert (ref.info.dtype in FLOAT_DTYPES) == is_float


@pytest.mark.parametrize("number", [np.int32, np.int64])
def test_tables_of_whole_numbers_are_read(number: type, tmp_path: Path) -> None:
    values = np.arange(-20, 4, dtype=number).reshape(4, 6)
    entry = TensorEntry("w", values.shape, WHOLE[number], values.nbytes)
    checkpoint = open_source(str(write_gguf(tmp_path / "m.gguf", METADATA, [(entry, values.tobytes())])))
    assert np.array_equal(checkpoint.ref("w").read(1, 3), values[1:3])


@pytest.mark.parametrize(
    "type_id", sorted({*GGML_TYPES} - {*DECODABLE, *WHOLE.values()}), ids=lambda i: GGML_TYPES[i].name
)
def test_types_without_decoder_are_listed_but_not_read(type_id: int, tmp_path: Path) -> None:
    nbytes = ROWS * COLS // GGML_TYPES[type_id].block * GGML_TYPES[type_id].nbytes
    entry = TensorEntry("w", (ROWS, COLS), type_id, nbytes)
    checkpoint = open_source(str(write_gguf(tmp_path / "m.gguf", METADATA, [(entry, bytes(nbytes))])))
    assert checkpoint.tensors()["w"].nbytes == nbytes
    with pytest.raises(UnsupportedError, match='tensor "w"'):
        checkpoint.ref("w")


def test_quantized_vectors_are_not_read(tmp_path: Path) -> None:
    entry = TensorEntry("v", (64,), 8, 68)
    checkpoint = open_source(str(write_gguf(tmp_path / "m.gguf", METADATA, [(entry, bytes(68))])))
    with pytest.raises(UnsupportedError, match='tensor "v" of shape \\(64,\\) is stored as q8_0'):
        checkpoint.ref("v")


def write_split(folder: Path, count: int = 3) -> list[Path]:
    paths = []
    for index in range(count):
        metadata = [*(METADATA if index == 0 else []), *split_metadata(index, count, count)]
        data = np.full(8, index, np.float32).tobytes()
        path = folder / shard_name("m", index, count)
        paths.append(write_gguf(path, metadata, [(TensorEntry(f"t{index}", (8,), 0, 32), data)]))
    return paths


@pytest.mark.parametrize("given", range(3))
def test_any_shard_opens_the_whole_model(given: int, tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    checkpoint = open_source(str(paths[given]))
    assert list(checkpoint.tensors()) == ["t0", "t1", "t2"]
    assert [checkpoint.ref(f"t{i}").read(0, 1).tolist() for i in range(3)] == [[[0]], [[1]], [[2]]]
    assert checkpoint.metadata == tuple(METADATA)
    assert [file.name for file in checkpoint.files()] == [path.name for path in paths]


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    paths[2].unlink()
    with pytest.raises(InputError, match="1 of 3 shards are missing"):
        open_source(str(paths[0]))
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(InputError, match=r"split\.no is 1, expected 2"):
        open_source(str(paths[0]))
    for name in ("m.gguf", "m-00001-of-00001.gguf"):  # a shard under another name
        (tmp_path / name).write_bytes(paths[1].read_bytes())
        with pytest.raises(InputError, match=r"split\.no is 1, expected 0"):
            open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Parts(infos=[g.info(b"t", [0, 4])]), "zero-size tensor"),
        (Parts(), "holds no tensors"),
        (Parts(infos=[g.info(b"t", [1 << 20])]), "ends at byte"),
        (Parts(magic=b"lmgg"), "before GGUF"),
        (Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.U8, [], 1 << 40))]), "claims 1,099,511,627,776"),
    ],
)
def test_hostile_files(parts: Parts, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(parts.encode())
    with pytest.raises(InputError, match=message) as caught:
        open_source(str(tmp_path / "m.gguf"))
    assert caught.value.hint


def test_changes_are_noticed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA, [random_tensor(0)])
    checkpoint = open_source(str(path))
    checkpoint.unchanged()
    os.truncate(path, 1000)
    for look in (checkpoint.unchanged, lambda: checkpoint.ref("w").read(0, ROWS)):
        with pytest.raises(InputError, match="changed while it was read"):
            look()
    checkpoint.close()
