"""The writing side of safetensors, read back by the safetensors package and by our own strict reader."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from quantkit.errors import UnsupportedError
from quantkit.formats.containers.packed import Entry, PackedTensor, packed
from quantkit.formats.safetensors import writer
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.formats.safetensors.writer import Shard, encode_header, index_json, split_shards

DTYPES = {"U8": np.uint8, "I8": np.int8, "I32": np.int32, "I64": np.int64, "F16": np.float16, "F32": np.float32}


def tensors(count: int = 12) -> list[PackedTensor]:
    rng = np.random.default_rng(count)
    found = []
    for i in range(count):
        dtype = list(DTYPES)[i % len(DTYPES)]
        shape = tuple(int(size) for size in rng.integers(1, 9, i % 4))
        values = rng.integers(0, 100, shape).astype(DTYPES[dtype])
        found.append(packed(Entry(f"model.layers.{i}.weight", dtype, shape), values))
    return found


def write(folder, shards: tuple[Shard, ...], found: list[PackedTensor]) -> None:
    data = {tensor.entry.name: tensor.data.tobytes() for tensor in found}
    for shard in shards:
        content = shard.header.data + b"".join(data[entry.name] for entry in shard.entries)
        assert len(content) == shard.header.nbytes, "the size is known before the bytes"
        for entry, offset in zip(shard.entries, shard.header.offsets, strict=True):
            assert content[offset : offset + entry.nbytes] == data[entry.name]
        (folder / shard.name).write_bytes(content)


@pytest.mark.parametrize("limit", [None, 1, 300, 1000, 10**9])
def test_the_safetensors_package_reads_what_was_planned(tmp_path, limit):
    found = tensors()
    shards = split_shards([tensor.entry for tensor in found], limit)
    write(tmp_path, shards, found)
    values = {}
    for shard in shards:
        values |= load_file(tmp_path / shard.name)
        with safe_open(tmp_path / shard.name, "np") as file:
            assert file.metadata() == {"format": "pt"}
        ours = read_safetensors(tmp_path / shard.name)
        assert [(name, e.dtype, e.shape) for name, e in ours.tensors.items()] == [
            (e.name, e.dtype, e.shape) for e in shard.entries
        ]
    assert set(values) == {tensor.entry.name for tensor in found}
    for tensor in found:
        assert values[tensor.entry.name].shape == tensor.entry.shape
        assert values[tensor.entry.name].tobytes() == tensor.data.tobytes()


def test_the_index_names_the_shard_of_every_tensor():
    found = [tensor.entry for tensor in tensors(40)]
    shards = split_shards(found, 500)
    assert [shard.name for shard in shards[:2]] == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in (1, 2)]
    index = json.loads(index_json(shards))
    assert index["metadata"] == {"total_size": sum(entry.nbytes for entry in found)}
    assert set(index["weight_map"]) == {entry.name for entry in found}
    for shard in shards:
        assert {name for name, of in index["weight_map"].items() if of == shard.name} == {
            entry.name for entry in shard.entries
        }


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 1200), min_size=1, max_size=20),
    limit=st.integers(1, 4000),
    making=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2),
)
def test_no_file_is_larger_than_asked_for_but_by_a_tensor(sizes, limit, making):
    """Header, padding and data together; and no file is smaller than it has to be."""
    entries = [Entry(f"tensor é {i}", "U8", (size,)) for i, size in enumerate(sizes)]
    shards = split_shards(entries, limit, making)
    assert [entry for shard in shards for entry in shard.entries] == entries
    for shard in shards:
        assert shard.header == encode_header(shard.entries, making)
        assert shard.header.nbytes == len(shard.header.data) + sum(entry.nbytes for entry in shard.entries)
        assert shard.header.nbytes <= limit or len(shard.entries) == 1
    for shard, following in pairwise(shards):
        assert encode_header((*shard.entries, following.entries[0]), making).nbytes > limit


def test_one_file_needs_no_number_and_tensors_start_aligned():
    (shard,) = split_shards([Entry('name with " and é', "BF16", (3, 5)), Entry("b", "F8_E4M3", ())])
    assert shard.name == "model.safetensors"
    assert len(shard.header.data) % 8 == 0
    assert shard.header.offsets == (len(shard.header.data), len(shard.header.data) + 30)
    assert shard.header == encode_header(shard.entries), "the same bytes every time"


def test_golden_header():
    header = encode_header([Entry("a", "I32", (2, 1)), Entry("b", "F16", (1,))])
    text = (
        b'{"__metadata__":{"format":"pt"},"a":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]},'
        b'"b":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}}'
    )
    padded = text + b" " * (-len(text) % 8)
    assert header.data == len(padded).to_bytes(8, "little") + padded
    assert header.nbytes == len(header.data) + 10


def test_a_header_that_no_reader_takes_is_refused(monkeypatch):
    monkeypatch.setattr(writer, "MAX_HEADER_BYTES", 100)
    with pytest.raises(UnsupportedError, match="header of 2 tensors") as caught:
        encode_header([Entry("a", "I32", (2, 1)), Entry("b", "F16", (1,))])
    assert caught.value.hint == "write smaller shards"
