"""The bounded GGUF reader: what it reads, and what it refuses. The first list follows llama.cpp's test-gguf.cpp."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf
import gguf_bytes as g
import numpy as np
import pytest
from gguf_bytes import Parts
from machine_speed import within

from quantkit.errors import InputError
from quantkit.formats.gguf.file import Limits, read_gguf, read_tensor_bytes

ALIGN = b"general.alignment"
TWO = [g.info(b"a", [8], 0, 0), g.info(b"b", [4, 2], 1, 32)]  # 32 bytes f32, 16 bytes f16
TWO_DATA = bytes(range(32)) + bytes(16) + bytes(16)
I64_MAX = (1 << 63) - 1


def write(tmp_path: Path, parts: Parts | bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(parts if isinstance(parts, bytes) else parts.encode())
    return path


def test_reads_metadata_and_tensors(tmp_path: Path) -> None:
    entries = [
        g.entry(b"s", g.STRING, g.string("π".encode())),
        g.entry(b"raw", g.STRING, g.string(b"\xff\xfe")),
        g.entry(b"f", g.F32, struct.pack("<f", 1.5)),
        g.entry(b"yes", g.BOOL, b"\x01"),
        g.entry(b"ids", g.ARRAY, g.array(g.I32, [struct.pack("<i", v) for v in (-1, 2)])),
        g.entry(b"words", g.ARRAY, g.array(g.STRING, [g.string(b"a"), g.string(b"\xe2\x96")])),
        g.entry(b"flags", g.ARRAY, g.array(g.BOOL, [b"\0", b"\1"])),
    ]
    file = read_gguf(write(tmp_path, Parts(entries=entries, infos=TWO, data=TWO_DATA)))
    values = {e.key: (e.kind, e.array, list(e.value) if e.array else e.value) for e in file.metadata}
    assert values == {
        "s": ("string", False, "π"),
        "raw": ("string", False, b"\xff\xfe"),
        "f": ("f32", False, 1.5),
        "yes": ("bool", False, True),
        "ids": ("i32", True, [-1, 2]),
        "words": ("string", True, ["a", b"\xe2\x96"]),
        "flags": ("bool", True, [False, True]),
    }
    a, b = file.tensors
    assert (a.name, a.qtype, a.shape, a.nbytes) == ("a", "f32", (8,), 32)
    assert (b.name, b.qtype, b.shape, b.nbytes) == ("b", "f16", (2, 4), 16)
    assert b.offset == a.offset + 32 == file.data_start + 32
    assert file.data_end == file.nbytes
    assert read_tensor_bytes(file, a).tobytes() == bytes(range(32))
    assert read_tensor_bytes(file, a, 4, 6).tobytes() == b"\4\5"


HEADER = {
    "bad magic": (Parts(magic=b"XUGG"), "not a GGUF file"),
    "reversed magic": (Parts(magic=b"FUGG"), "reversed byte order"),
    "ggml": (Parts(magic=b"lmgg"), "GGML file"),
    "ggmf": (Parts(magic=b"fmgg"), "GGMF file"),
    "ggjt": (Parts(magic=b"tjgg"), "GGJT file"),
    "ggla": (Parts(magic=b"algg"), "GGLA adapter"),
    "pickle": (Parts(magic=b"PK\3\4"), "pickle"),
    "version 0": (Parts(version=0), "version 0"),
    "version 1": (Parts(version=1), "version 1"),
    "version 4": (Parts(version=4), "version 4"),
    "big-endian": (Parts(version=3 << 24), "big-endian"),
    "tensor count": (Parts(tensor_count=(1 << 64) - 1), "claims 18,446,744,073,709,551,615 tensors, .* bytes remain"),
    "entry count": (Parts(entry_count=(1 << 64) - 1), "claims 18,.* metadata entries, .* bytes remain"),
    "one more tensor": (Parts(infos=TWO, tensor_count=3, data=b""), "the name of tensor 2"),
    "one more entry": (Parts(entry_count=2), "entry 1"),
    "empty": (b"", "the magic number"),
    "magic only": (b"GGUF", "the version"),
    "no counts": (b"GGUF\3\0\0\0\1", "the tensor count"),
}

ENTRIES = {
    "key size": ([g.string(b"k", (1 << 64) - 1) + g.u32(g.U8) + b"\0"], "bytes, at most"),
    "empty key": ([g.entry(b"", g.U8, b"\0" * 8)], "not empty"),
    "control key": ([g.entry(b"a\x1b[31m", g.U8, b"\0")], r"\\x1b"),
    "key not utf-8": ([g.entry(b"\xff", g.U8, b"\0")], "not UTF-8"),
    "kind": ([g.entry(b"k", 13, b"\0" * 8)], "unknown kind 13"),
    "array kind": ([g.entry(b"k", g.ARRAY, g.array(99, [b"\0" * 8]))], "unknown kind 99"),
    "duplicate": ([g.entry(b"k", g.U8, b"\0"), g.entry(b"k", g.U8, b"\0")], 'duplicate key "k"'),
    "string size": ([g.entry(b"k", g.STRING, g.string(b"", 1 << 40))], "needs 1,099,511,627,776 bytes"),
    "string size, sign": ([g.entry(b"k", g.STRING, g.string(b"", (1 << 64) - 1))], "needs"),
    "array size": ([g.entry(b"k", g.ARRAY, g.array(g.U64, [], 1 << 40))], "claims 1,099,511,627,776 elements"),
    "array size, wrap": ([g.entry(b"k", g.ARRAY, g.array(g.U64, [], (1 << 61) + 1))], "elements"),
    "string in array": ([g.entry(b"k", g.ARRAY, g.array(g.STRING, [g.string(b"", 1 << 62)]))], "needs"),
    "nested array": ([g.entry(b"k", g.ARRAY, g.array(g.ARRAY, [g.array(g.ARRAY, [])] * 9))], "array of arrays"),
    "alignment 13": ([g.entry(ALIGN, g.U32, g.u32(13))], "power of two"),
    "alignment 0": ([g.entry(ALIGN, g.U32, g.u32(0))], "power of two"),
    "alignment 2^31": ([g.entry(ALIGN, g.U32, g.u32(1 << 31))], "up to 65,536"),
    "alignment 2^17": ([g.entry(ALIGN, g.U32, g.u32(1 << 17))], "up to 65,536"),
    "alignment i32": ([g.entry(ALIGN, g.I32, g.u32(32))], "expected u32"),
    "alignment array": ([g.entry(ALIGN, g.ARRAY, g.array(g.U32, [g.u32(32)]))], "expected u32"),
    "alignment string": ([g.entry(ALIGN, g.STRING, g.string(b"32"))], "expected u32"),
}

TENSORS = {
    "name size": ([g.info(b"n" * 64, [1])], "at most 63"),
    "name claim": ([g.string(b"n", (1 << 64) - 1) + g.info(b"", [8])], "at most 63"),
    "empty name": ([g.info(b"", [8])], "not empty"),
    "control name": ([g.info(b"a\nb", [8])], r"a\\nb"),
    "5 dims": ([g.info(b"t", [1] * 5)], "5 dimensions"),
    "many dims": ([g.string(b"t") + g.u32(0xFFFFFFFF) + bytes(64)], "dimensions"),
    "2^63 weights": ([g.info(b"t", [1 << 63], 24)], "impossible shape"),
    "2^62 weights": ([g.info(b"t", [1 << 62], 24)], "ends at byte"),
    "negative dim": ([g.info(b"t", [(1 << 64) - 1])], "impossible shape"),
    "too many weights": ([g.info(b"t", [I64_MAX, 2], 24)], "impossible shape"),
    "bytes wrap": ([g.info(b"t", [4, (1 << 30) - 1, (1 << 30) + 1])], "ends at byte"),
    "2^63 bytes": ([g.info(b"t", [1 << 60], 27)], "ends at byte"),
    "type 43": ([g.info(b"t", [8], 43)], "type 43, which is unknown"),
    "type -1": ([g.info(b"t", [8], 0xFFFFFFFF)], "unknown"),
    "type 4": ([g.info(b"t", [8], 4)], "removed"),
    "half a block": ([g.info(b"t", [48], 2)], "multiple of the 32 of q4_0"),
    "offset": ([g.info(b"t", [8], 0, 32)], "expected 128"),
    "offset wrap": ([g.info(b"t", [8], 0, (1 << 64) - 64)], "expected 128"),
    "gap": ([g.info(b"a", [8], 0, 0), g.info(b"b", [1], 0, 64)], "without gap"),
    "overlap": ([g.info(b"a", [8], 0, 0), g.info(b"b", [8], 0, 0)], "without gap"),
    "order": ([g.info(b"a", [8], 0, 32), g.info(b"b", [8], 0, 0)], "without gap"),
    "duplicate": ([g.info(b"a", [8], 0, 0), g.info(b"a", [8], 0, 32)], 'duplicate tensor "a"'),
    "unaligned": ([g.info(b"a", [1], 0, 0), g.info(b"b", [1], 0, 4)], "without gap"),
    "past the end": ([g.info(b"a", [1 << 20])], "ends at byte"),
    "sum past the end": ([g.info(b"a", [256]), g.info(b"b", [I64_MAX // 2], 24, 1024)], "ends at byte"),
}

HUGE = 0x7FFFFFFFFFFFFFC0  # twice this wraps to -128

# Files of the kind that past holes in GGUF readers were about: what is false in each, not an exploit.
CVES = {
    "CVE-2024-21802 sizes of a tensor": (Parts(infos=[g.info(b"t", [1 << 62, 8])]), "impossible shape"),
    "CVE-2024-21825 length of an array": (
        Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.STRING, [], (1 << 61) + 1))]),
        "elements",
    ),
    "CVE-2024-21836 count of tensors": (Parts(tensor_count=(1 << 64) // 88 + 1), "tensors"),
    "CVE-2024-23496 length of a string": (
        Parts(entries=[g.string(b"", (1 << 64) - 1) + bytes(8)]),
        "at most 65,535",
    ),
    "CVE-2024-23605 count of entries": (Parts(entry_count=(1 << 64) // 48 + 1), "metadata entries"),
    "CVE-2025-53630 sum of sizes": (
        Parts(infos=[g.info(b"a", [HUGE], 24, 0), g.info(b"b", [HUGE], 24, HUGE)], data=bytes(64)),
        "ends at byte",
    ),
    "CVE-2026-27940 sum of sizes that wraps": (
        Parts(
            infos=[g.info(b"a", [HUGE], 24, 0), g.info(b"b", [HUGE], 24, HUGE), g.info(b"c", [192], 24, 2 * HUGE)],
            data=bytes(64),
        ),
        "ends at byte",
    ),
    "CVE-2026-33298 bytes of a tensor": (
        Parts(infos=[g.info(b"t", [1 << 31, 1 << 31])], data=bytes(64)),
        "ends at byte",
    ),
    "CVE-2026-7482 data beyond the end": (Parts(infos=[g.info(b"t", [1 << 28])], data=bytes(64)), "ends at byte"),
    "division by zero": (Parts(entries=[g.entry(ALIGN, g.U32, g.u32(0))]), "power of two"),
    "arrays in arrays": (
        Parts(entries=[g.entry(b"k", g.ARRAY, struct.pack("<IQ", g.ARRAY, 1) * 100_000)]),
        "array of arrays",
    ),
}


@pytest.mark.parametrize("name", CVES)
def test_rejects_files_like_those_of_past_holes(name: str, tmp_path: Path) -> None:
    parts, message = CVES[name]
    with pytest.raises(InputError, match=message):
        read_gguf(write(tmp_path, parts))


@pytest.mark.parametrize("name", HEADER)
def test_rejects_header(name: str, tmp_path: Path) -> None:
    parts, message = HEADER[name]
    with pytest.raises(InputError, match=message):
        read_gguf(write(tmp_path, parts))


@pytest.mark.parametrize("name", ENTRIES)
def test_rejects_metadata(name: str, tmp_path: Path) -> None:
    entries, message = ENTRIES[name]
    with pytest.raises(InputError, match=message) as caught:
        read_gguf(write(tmp_path, Parts(entries=entries, data=bytes(64))))
    assert caught.value.path == str(tmp_path / "x.gguf")


@pytest.mark.parametrize("name", TENSORS)
def test_rejects_tensors(name: str, tmp_path: Path) -> None:
    infos, message = TENSORS[name]
    with pytest.raises(InputError, match=message):
        read_gguf(write(tmp_path, Parts(infos=infos, data=bytes(1024))))


@pytest.mark.parametrize(
    "entries",
    [
        [g.entry(b"k", g.U8, b"\1")],
        [g.entry(b"k" * 65535, g.U8, b"\1")],
        [g.entry(b"k", g.ARRAY, g.array(g.U16, [b"\1\0"] * 9))],
        [g.entry(b"k", g.ARRAY, g.array(g.STRING, [g.string(b"")] * 9))],
        [g.entry(b"k", g.STRING, g.string(b"abc"))],
    ],
    ids=["smallest entry", "longest key", "numbers", "empty strings", "string"],
)
def test_a_file_may_end_with_its_last_entry(entries: list[bytes], tmp_path: Path) -> None:
    raw = Parts(entries=entries, alignment=1).encode()
    assert len(read_gguf(write(tmp_path, raw)).metadata) == 1
    with pytest.raises(InputError, match=r"bytes|remain"):
        read_gguf(write(tmp_path, raw[:-1]))


def test_the_longest_key_has_65535_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 65,536 bytes, at most 65,535 are allowed"):
        read_gguf(write(tmp_path, Parts(entries=[g.entry(b"k" * 65536, g.U8, b"\1")])))


def test_the_most_dimensions_and_the_longest_name(tmp_path: Path) -> None:
    file = read_gguf(write(tmp_path, Parts(infos=[g.info(b"n" * 63, [2, 1, 1, 2])], data=bytes(16))))
    assert (file.tensors[0].shape, file.tensors[0].nbytes) == ((2, 1, 1, 2), 16)


@pytest.mark.parametrize("alignment", [1, 64, 1 << 16])
def test_custom_alignment(alignment: int, tmp_path: Path) -> None:
    entries = [g.entry(ALIGN, g.U32, g.u32(alignment))]
    infos = [g.info(b"a", [3], 24, 0), g.info(b"b", [5], 24, -(-3 // alignment) * alignment)]
    data = b"abc".ljust(-(-3 // alignment) * alignment, b"\0") + b"defgh"
    file = read_gguf(write(tmp_path, Parts(entries=entries, infos=infos, data=data, alignment=alignment)))
    assert file.alignment == alignment
    assert [read_tensor_bytes(file, t).tobytes() for t in file.tensors] == [b"abc", b"defgh"]


def test_rejects_offsets_of_another_alignment(tmp_path: Path) -> None:
    infos = [g.info(b"a", [3], 24, 0), g.info(b"b", [5], 24, 3)]
    with pytest.raises(InputError, match="without gap"):
        read_gguf(write(tmp_path, Parts(infos=infos, data=bytes(64))))


@pytest.mark.parametrize("cut", [1, 16, 17, 32, 63])
def test_rejects_missing_data_but_not_missing_padding(cut: int, tmp_path: Path) -> None:
    path = write(tmp_path, Parts(infos=TWO, data=TWO_DATA).encode()[:-cut])
    if cut <= 16:  # the last 16 bytes pad tensor b; llama.cpp reads such files
        assert read_gguf(path).data_end == path.stat().st_size + cut
    else:
        with pytest.raises(InputError, match="ends at byte"):
            read_gguf(path)


def test_zero_sizes_are_legal(tmp_path: Path) -> None:
    infos = [g.info(b"none", [0, 7], 0, 0), g.info(b"one", [], 0, 0)]
    file = read_gguf(write(tmp_path, Parts(infos=infos, data=bytes(4))))
    assert [(t.shape, t.nbytes) for t in file.tensors] == [((7, 0), 0), ((), 4)]


def test_version_2_and_files_without_tensors(tmp_path: Path) -> None:
    assert read_gguf(write(tmp_path, Parts(version=2))).version == 2
    file = read_gguf(write(tmp_path, Parts(alignment=1)))
    assert (file.tensors, file.data_end) == ((), file.nbytes)


def test_bytes_after_the_data_are_visible(tmp_path: Path) -> None:
    file = read_gguf(write(tmp_path, Parts(infos=TWO, data=TWO_DATA + b"more")))
    assert file.nbytes - file.data_end == 4


def test_49_bytes_that_claim_an_array_of_2_to_the_40(tmp_path: Path) -> None:
    raw = Parts(entries=[g.entry(b"k", g.ARRAY, g.array(g.U8, [], 1 << 40))], alignment=1).encode()
    assert len(raw) == 49
    path = write(tmp_path, raw)
    tracemalloc.start()
    with within(0.1), pytest.raises(InputError, match='value of "k" claims 1,099,511,627,776 elements'):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("kind", ["strings", "zeros", "sparse array"])
def test_large_files_stay_within_the_budget(kind: str, tmp_path: Path) -> None:
    """Claims backed by a file of many (sparse) bytes: the budgets bound what is built from them."""
    count = 1 << 30
    value = {
        "strings": g.array(g.STRING, [], count),  # a billion empty strings
        "zeros": g.array(g.BOOL, [], count),
        "sparse array": g.array(g.U64, [], count),
    }[kind]
    path = write(tmp_path, Parts(entries=[g.entry(b"k", g.ARRAY, value)]))
    os.truncate(path, 16 << 30)
    tracemalloc.start()
    with within(2), pytest.raises(InputError, match=r"elements|larger"):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_limits_are_enforced(tmp_path: Path) -> None:
    words = g.entry(b"w", g.ARRAY, g.array(g.STRING, [g.string(b"a")] * 5))
    path = write(tmp_path, Parts(entries=[words], infos=TWO, data=TWO_DATA))
    assert len(read_gguf(path, Limits(strings=5)).tensors) == 2
    for limits, message in (
        (Limits(strings=4), "4 are within the budget"),
        (Limits(tensors=1), "claims 2 tensors, at most 1 are read"),
        (Limits(entries=0), "claims 1 metadata entries, at most 0 are read"),
        (Limits(header_bytes=100), "the header is larger than 100 bytes"),
    ):
        with pytest.raises(InputError, match=message):
            read_gguf(path, limits)


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for path in (tmp_path / "pipe.gguf", tmp_path, Path("/dev/zero"), tmp_path / "loop.gguf", tmp_path / "none.gguf"):
        with pytest.raises(InputError):
            read_gguf(path)
    with pytest.raises(InputError):
        read_gguf(Path("a\0b.gguf"))


def test_data_of_a_replaced_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, Parts(infos=TWO, data=TWO_DATA))
    file = read_gguf(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="changed"):
        read_tensor_bytes(file, file.tensors[0])


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("k.u8", 255)
    writer.add_int8("k.i8", -128)
    writer.add_uint16("k.u16", 65535)
    writer.add_int16("k.i16", -32768)
    writer.add_uint32("k.u32", 2**32 - 1)
    writer.add_int32("k.i32", -(2**31))
    writer.add_float32("k.f32", 0.1)
    writer.add_uint64("k.u64", 2**64 - 1)
    writer.add_int64("k.i64", -(2**63))
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.string", "größer ▁ 😀")
    writer.add_array("k.strings", ["a", "", "日本"])
    writer.add_array("k.floats", [0.5, -1.25])
    writer.add_array("k.ints", [1, -2, 3])
    writer.add_array("k.bools", [True, False])
    rng = np.random.default_rng(1)
    stored = {
        "w": rng.standard_normal((3, 5), dtype=np.float32),
        "h": rng.standard_normal((2, 3, 7)).astype(np.float16),
        "v": np.arange(9, dtype=np.int32),
    }
    for name, values in stored.items():
        writer.add_tensor(name, values)
    raw_q8 = rng.integers(0, 256, (4, 68), dtype=np.uint8)
    writer.add_tensor("q", raw_q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = read_gguf(path)
    theirs = gguf.GGUFReader(path)
    assert {e.key: list(e.value) if e.array else e.value for e in file.metadata} == {
        key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")
    }
    assert file.data_end == file.nbytes
    assert file.data_start == theirs.data_offset
    for mine, other in zip(file.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.type_id, mine.offset, mine.nbytes) == (
            other.name,
            other.tensor_type,
            other.data_offset,
            other.n_bytes,
        )
        assert mine.shape == tuple(int(n) for n in reversed(other.shape))
    assert read_tensor_bytes(file, file.tensors[-1]).tobytes() == raw_q8.tobytes()
