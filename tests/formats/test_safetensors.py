"""The bounded safetensors reader against the safetensors package: same facts, same refusals, a few more."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from machine_speed import within
from mutants import mutants
from safetensors.numpy import save_file

from quantkit.errors import InputError
from quantkit.formats.safetensors.reader import DTYPE_BITS, MAX_TENSORS, read_safetensors
from quantkit.tensors import DTYPE_BYTES


def encode(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def u8(start: int, stop: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop], **changes}


def theirs(raw: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """What the safetensors package reads; None where it refuses."""
    try:
        found = safetensors.deserialize(raw)
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found}


def ours(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    raw = path.read_bytes()
    return {n: (e.dtype, e.shape, raw[e.start : e.stop]) for n, e in read_safetensors(path).tensors.items()}


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(4, dtype=np.float16),
        "größe": np.array(7, dtype=np.int64),
        "none": np.zeros((0, 3), np.float32),
    }
    save_file(tensors, path, metadata={"format": "pt", "by": "test"})
    file = read_safetensors(path)
    assert file.metadata == {"format": "pt", "by": "test"}
    assert ours(path) == theirs(path.read_bytes())
    assert {name: entry.shape for name, entry in file.tensors.items()} == {n: t.shape for n, t in tensors.items()}


@pytest.mark.parametrize("dtype", [*DTYPE_BITS, "F128", "f32", ""])
def test_dtypes_are_those_of_the_format(dtype: str, tmp_path: Path) -> None:
    nbytes = DTYPE_BITS.get(dtype, 8) * 4 // 8
    raw = encode({"t": {"dtype": dtype, "shape": [4], "data_offsets": [0, nbytes]}}, bytes(nbytes))
    (tmp_path / "x").write_bytes(raw)
    if dtype in DTYPE_BITS:
        assert ours(tmp_path / "x") == theirs(raw)
    else:
        assert theirs(raw) is None
        with pytest.raises(InputError, match="unknown dtype"):
            read_safetensors(tmp_path / "x")


def test_dtype_tables_agree() -> None:
    assert {name: 8 * nbytes for name, nbytes in DTYPE_BYTES.items()}.items() <= DTYPE_BITS.items()


AB = {"a": u8(0, 1), "b": u8(1, 3)}
BAD = {
    "empty": (b"", "too few"),
    "7 bytes": (b"\0" * 7, "too few"),
    "no header": (encode(b""), "not valid JSON"),
    "2^60 header": (encode(b"{}", b"", 1 << 60), "claims a header of 1,152,921,504,606,846,976 bytes"),
    "2^63 header": (encode(b"{}", b"", 1 << 63), "claims a header"),
    "short header": (encode(b"{}", b"", 3), "claims a header"),
    "not json": (encode(b"{a}"), "not valid JSON"),
    "list": (encode(b"[]"), "expected a JSON object"),
    "number": (encode(b"1"), "expected a JSON object"),
    "byte order mark": (encode(b"\xef\xbb\xbf{}"), "not valid JSON"),
    "not utf-8": (encode(b'{"\xff": 1}'), "not UTF-8"),
    "nul padding": (encode(json.dumps({"a": u8(0, 1)}).encode() + b"\0", b"x"), "not valid JSON"),
    "nested": (encode(b'{"a":' + b"[" * 100_000), "nested"),
    "long integer as tensor": (encode(b'{"a":' + b"9" * 5000 + b"}"), "exactly the fields"),
    "long integer as size": (
        encode(b'{"a":{"dtype":"U8","shape":[1%s],"data_offsets":[0,1]}}' % (b"0" * 30), b"x"),
        "impossible shape",
    ),
    "long integer as offset": (
        encode(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1%s]}}' % (b"0" * 5000), b"x"),
        "data_offsets",
    ),
    "field twice": (encode(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "duplicate"),
    "metadata twice": (encode(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate"),
    "metadata number": (encode({"__metadata__": {"a": 1}}), "object of strings"),
    "metadata list": (encode({"__metadata__": []}), "object of strings"),
    "no dtype": (encode({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"), "exactly the fields"),
    "null": (encode({"a": None}), "exactly the fields"),
    "dtype number": (encode({"a": u8(0, 1, dtype=3)}, b"x"), "unknown dtype"),
    "shape text": (encode({"a": u8(0, 1, shape="1")}, b"x"), "impossible shape"),
    "shape float": (encode({"a": u8(0, 1, shape=[1.0])}, b"x"), "impossible shape"),
    "shape negative": (encode({"a": u8(0, 1, shape=[-1])}, b"x"), "impossible shape"),
    "shape bool": (encode({"a": u8(0, 1, shape=[True])}, b"x"), "impossible shape"),
    "shape overflow": (encode({"a": u8(0, 0, shape=[1 << 62, 4])}), "impossible shape"),
    "zero times overflow": (encode({"a": u8(0, 0, shape=[1 << 63, 4, 0])}), "impossible shape"),
    "wrong size": (encode({"a": u8(0, 1, shape=[2])}, b"x"), "1 bytes of data, U8 \\[2\\] takes 2"),
    "end before start": (encode({"a": u8(0, 1, data_offsets=[1, 0])}, b"x"), "bytes of data"),
    "three offsets": (encode({"a": u8(0, 1, data_offsets=[0, 1, 1])}, b"x"), "data_offsets"),
    "half a byte": (encode({"a": u8(0, 1, dtype="F4", shape=[3])}, b"x"), "takes 1.5"),
    "past the end": (encode({"a": u8(0, 9)}, b"x"), "ends at byte"),
    "overlap": (encode({"a": u8(0, 2), "b": u8(1, 3)}, b"xyz"), "overlaps"),
    "same bytes": (encode({"a": u8(0, 2), "b": u8(0, 2)}, b"xy"), "overlaps"),
    "gap": (encode({"a": u8(0, 1), "b": u8(2, 3)}, b"xyz"), "leaves a gap"),
    "late start": (encode({"a": u8(1, 2)}, b"xy"), "leaves a gap"),
    "trailing": (encode(AB, b"xyz!"), "1 bytes follow"),
    "trailing without tensors": (encode({}, b"x"), "1 bytes follow"),
    "truncated": (encode(AB, b"xy"), "ends at byte"),
    "empty tensor in a gap": (encode({"a": u8(0, 1), "b": u8(5, 5)}, b"x"), "ends at byte|leaves a gap"),
}

# What the package accepts and quantkit does not (see the docstring of quantkit.formats.safetensors.reader).
STRICTER = {
    "name twice": (encode(b'{"a":%s,"a":%s}' % ((json.dumps(u8(0, 1)).encode(),) * 2), b"x"), "duplicate names: a"),
    "metadata key twice": (encode(b'{"__metadata__":{"k":"1","k":"2"}}'), "duplicate names: k"),
    "metadata null": (encode({"__metadata__": None}), "object of strings"),
    "empty name": (encode({"": u8(0, 1)}, b"x"), "is empty, not printable"),
    "control name": (encode({"a\x1b[31m\n": u8(0, 1)}, b"x"), r'"a\\x1b\[31m\\n" is empty, not printable'),
    "right-to-left name": (encode({"a\u202eb": u8(0, 1)}, b"x"), r"a\\u202eb"),
    "long name": (encode({"n" * 513: u8(0, 1)}, b"x"), "513 characters"),
    "rank 9": (encode({"a": u8(0, 1, shape=[1] * 9)}, b"x"), "impossible shape"),
    "2^63 rows of nothing": (encode({"a": u8(0, 0, shape=[1 << 63, 0])}), "impossible shape"),
    "unknown field": (encode({"a": u8(0, 1, more=1)}, b"x"), "exactly the fields"),
    "tensor as list": (encode({"a": ["U8", [1], [0, 1]]}, b"x"), "exactly the fields"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses_as_the_package_does(name: str, tmp_path: Path) -> None:
    raw, message = BAD[name]
    (tmp_path / "x").write_bytes(raw)
    assert theirs(raw) is None
    with pytest.raises(InputError, match=message) as caught:
        read_safetensors(tmp_path / "x")
    assert caught.value.path == str(tmp_path / "x")
    assert caught.value.hint


@pytest.mark.parametrize("name", STRICTER)
def test_refuses_more_than_the_package(name: str, tmp_path: Path) -> None:
    raw, message = STRICTER[name]
    (tmp_path / "x").write_bytes(raw)
    assert theirs(raw) is not None
    with pytest.raises(InputError, match=message):
        read_safetensors(tmp_path / "x")


@pytest.mark.parametrize(
    "raw",
    [
        encode(b"{}"),
        encode(b"  \n" + json.dumps(AB).encode() + b" \n ", b"xyz"),
        encode({"b": u8(1, 3), "a": u8(0, 1)}, b"xyz"),
        encode({"a": u8(0, 1), "z": u8(1, 1, shape=[0, 5])}, b"x"),
        encode({"z": u8(0, 0), "a": u8(0, 1), "__metadata__": {"k": "v"}}, b"x"),
        encode({"scalar": u8(0, 1, shape=[])}, b"x"),
        encode({"n" * 512: u8(0, 1, shape=[1] * 8)}, b"x"),
        encode({"a": u8(0, 0, shape=[(1 << 63) - 1, 0])}),
    ],
)
def test_accepts_as_the_package_does(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(raw)
    assert ours(tmp_path / "x") == theirs(raw)


STRICTER_MESSAGE = re.compile(
    r"duplicate names|not printable|exactly the fields|impossible shape|object of strings|integer of"
)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_judged_as_the_package_judges(seed: int, tmp_path: Path) -> None:
    header = {
        "model.layers.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "model.norm.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "empty": u8(32, 32),
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    raw = encode(text, bytes(32))
    path = tmp_path / "x"
    accepted = refused = 0
    for mutant in [*mutants(raw, 1500, seed, head=8 + len(text)), *_edited(text, 1500, seed)]:
        path.write_bytes(mutant)
        with within(2):
            try:
                found = ours(path)
            except InputError as error:
                refused += 1
                assert error.message.isprintable()
                assert theirs(mutant) is None or STRICTER_MESSAGE.search(error.message), error.message
            else:
                accepted += 1
                assert found == theirs(mutant)
    assert accepted > 40
    assert refused > 1000


def _edited(text: bytes, count: int, seed: int) -> list[bytes]:
    """Headers with a number, a quote or a bracket replaced: these reach deeper than flipped bytes."""
    rng = random.Random(seed)
    pieces = [b"0", b"1", b"2", b"24", b"32", b"9999999999999999999999", b"-1", b"1.5", b"[]", b"{}", b"null", b'"U8"']
    tokens = list(re.finditer(rb'\d+|"\w+"|[\[\]{},:]', text))
    edited = []
    for _ in range(count):
        token = rng.choice(tokens)
        piece = rng.choice([*pieces, rng.choice(tokens)[0]])
        edited.append(encode(text[: token.start()] + piece + text[token.end() :], bytes(32)))
    return edited


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: json.dumps({str(i): u8(0, 0) for i in range(MAX_TENSORS + 1)}).encode(), "claims 200,001 tensors"),
        (lambda: b'{"a":[' + b"[]," * (1 << 20) + b"[]]}", "JSON values"),
        (lambda: b'{"a":"' + b"x" * (32 << 20) + b'"}', "exactly the fields"),
        (lambda: b" " * (60 << 20), "not valid JSON"),
        (lambda: b"[" * (60 << 20), "JSON values"),
    ],
    ids=["tensors", "lists", "string", "spaces", "brackets"],
)
def test_header_bombs_cost_little(build: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(encode(build()))
    tracemalloc.start()
    with within(2), pytest.raises(InputError, match=message):
        read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 320 << 20


def test_headers_above_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(encode(b"{}", b"", (64 << 20) + 1))
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="at most 67,108,864 are read"):
        read_safetensors(path)


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(InputError):
            read_safetensors(path)
