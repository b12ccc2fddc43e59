"""Importance matrices: both formats, what they mean, and files that lie."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import gguf_bytes as g
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_speed import within
from mutants import mutants
from numpy.typing import NDArray
from oracles import gguf_files

from quantkit.errors import InputError
from quantkit.formats.gguf.imatrix import Entry, Imatrix, encode_imatrix_gguf, match_importance, read_imatrix

F32 = NDArray[np.float32]


def write_gguf(path: Path, weights: dict[str, tuple[F32, F32]]) -> Path:
    """An imatrix as llama-imatrix lays it out, written by the gguf package: name -> sums, counts."""
    writer = gguf.GGUFWriter(str(path), "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.txt", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in weights.items():
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def legacy(entries: list[tuple[bytes, int, F32]], tail: bytes = b"", count: int | None = None) -> bytes:
    raw = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, values in entries:
        raw += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, values.size) + values.tobytes()
    return raw + tail


def write(folder: Path, raw: bytes) -> Path:
    path = folder / "imatrix.dat"
    path.write_bytes(raw)
    return path


SUMS = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
VALUES = np.array([1, 2, 4, 8], np.float32)


def test_gguf_experts_have_a_count_each(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "i.gguf", {"blk.0.ffn_up_exps.weight": (SUMS, np.array([[4], [0]], np.float32))})
    found = read_imatrix(path)
    assert (found.file, found.chunks, found.chunk_size, found.datasets) == ("i.gguf", 12, 512, ("wiki.txt", "code.txt"))
    importance = found.entries["blk.0.ffn_up_exps.weight"].importance()
    assert importance.dtype == np.float32
    assert importance.tolist() == [[0.25, 0.5, 0.75, 1.0], [1.0, 1.0, 1.0, 1.0]], "no tokens: all ones"


def test_gguf_division_is_in_float32(tmp_path: Path) -> None:
    sums = np.array([[1e-3, 7.7, 123456.7, 3e30]], np.float32)
    path = write_gguf(tmp_path / "i.gguf", {"w": (sums, np.array([[3]], np.float32))})
    expected = np.array([np.float32(x) / np.float32(3) for x in sums[0]], np.float32)
    assert np.array_equal(read_imatrix(path).entries["w"].importance()[0], expected)


def test_counts_are_rounded_as_llama_quantize_rounds_them(tmp_path: Path) -> None:
    counts = np.array([[2.5], [1.4]], np.float32)
    found = read_imatrix(write_gguf(tmp_path / "i.gguf", {"w": (SUMS, counts)}))
    assert found.entries["w"].counts.tolist() == [3, 1]


def test_one_count_may_serve_several_matrices(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "i.gguf", {"w": (SUMS.reshape(1, 8), np.array([[2]], np.float32))})
    found, notes = match_importance(read_imatrix(path), {"w": (2, 3, 4)}, {"w"})
    assert np.array_equal(found["w"], SUMS / 2)
    assert notes == ()


def test_legacy_values_are_means_times_calls(tmp_path: Path) -> None:
    tail = struct.pack("<ii", 7, 8) + b"wiki.txt"
    found = read_imatrix(write(tmp_path, legacy([(b"b", 4, VALUES), (b"a", 0, VALUES)], tail)))
    assert (list(found.entries), found.chunks, found.datasets) == (["a", "b"], 7, ("wiki.txt",))
    assert found.entries["b"].importance().tolist() == [[0.25, 0.5, 1, 2]]
    assert found.entries["a"].importance().tolist() == [[1, 2, 4, 8]], "no calls: not divided"


def test_legacy_tail_is_optional(tmp_path: Path) -> None:
    found = read_imatrix(write(tmp_path, legacy([(b"a", 1, VALUES)])))
    assert (found.chunks, found.datasets) == (0, ())


def test_hash_is_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, legacy([(b"a", 1, VALUES)]))
    import hashlib

    assert read_imatrix(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@given(
    st.dictionaries(
        st.from_regex(r"blk\.[0-9]{1,2}\.[a-z_]{1,12}\.weight", fullmatch=True),
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(0, 1 << 23)),
        min_size=1,
        max_size=5,
    )
)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_written_imatrix_reads_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(1)
    entries = {
        name: Entry(rng.random((matrices, cols), np.float32), np.full(matrices, count, np.int64))
        for name, (matrices, cols, count) in sorted(sizes.items())
    }
    path = tmp_path_factory.mktemp("imatrix") / "i.gguf"
    path.write_bytes(encode_imatrix_gguf(Imatrix("i.gguf", entries, 3, 512, ("text",), "")))
    found = read_imatrix(path)
    assert list(found.entries) == list(entries)
    for name, entry in entries.items():
        assert np.array_equal(found.entries[name].sums, entry.sums)
        assert np.array_equal(found.entries[name].counts, entry.counts)
    contents = gguf_files.read(path)
    assert contents is not None
    assert len(contents.tensors) == 2 * len(entries), "ggml accepts the file"


def test_provenance_is_what_llama_quantize_writes() -> None:
    imatrix = Imatrix("x" * 200, {"a": Entry(SUMS, np.ones(2, np.int64))}, 5, 512, ("d" * 130, "e"), "")
    assert [(kv.key, kv.kind, kv.value) for kv in imatrix.provenance()] == [
        ("quantize.imatrix.file", "string", b"x" * 127),
        ("quantize.imatrix.dataset", "string", b"d" * 127),
        ("quantize.imatrix.entries_count", "u32", 1),
        ("quantize.imatrix.chunks_count", "u32", 5),
    ]
    unknown = replace(imatrix, chunks=0, datasets=())
    assert [kv.key.rpartition(".")[2] for kv in unknown.provenance()] == ["file", "entries_count"]


ONE = {"w": (SUMS, np.ones((2, 1), np.float32))}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("where", ["sums", "counts"])
def test_impossible_values(tmp_path: Path, bad: float, where: str) -> None:
    sums, counts = SUMS.copy(), np.ones((2, 1), np.float32)
    (sums if where == "sums" else counts)[1, 0] = bad
    with pytest.raises(InputError, match="expected finite and not negative") as caught:
        read_imatrix(write_gguf(tmp_path / "i.gguf", {"w": (sums, counts)}))
    assert caught.value.tensor == "w"


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("imatrix.datasets", "imatrix.datasets is missing"),
        ("imatrix.chunk_count", "imatrix.chunk_count is missing"),
        ("imatrix.chunk_size", "imatrix.chunk_size is missing"),
    ],
)
def test_gguf_needs_its_metadata(tmp_path: Path, drop: str, message: str) -> None:
    raw = write_gguf(tmp_path / "i.gguf", ONE).read_bytes()
    (tmp_path / "i.gguf").write_bytes(raw.replace(drop.encode(), b"x" * len(drop)))
    with pytest.raises(InputError, match=message) as caught:
        read_imatrix(tmp_path / "i.gguf")
    assert caught.value.key == drop


def test_gguf_needs_sums_and_counts_of_f32(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    raw = write_gguf(path, ONE).read_bytes()
    path.write_bytes(raw.replace(b"w.counts", b"w.countz"))
    with pytest.raises(InputError, match=r"w has only one of \.in_sum2 and \.counts"):
        read_imatrix(path)
    write_gguf(path, {"w": (SUMS.astype(np.float16), np.ones((2, 1), np.float32))})
    with pytest.raises(InputError, match="has type f16, expected f32"):
        read_imatrix(path)
    write_gguf(path, {"w": (SUMS, np.ones((3, 1), np.float32))})
    with pytest.raises(InputError, match="w has 8 sums and 3 counts"):
        read_imatrix(path)


def test_a_model_is_no_imatrix(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(g.Parts(infos=[g.info(b"token_embd.weight", [8])], data=bytes(32)).encode())
    with pytest.raises(InputError, match="holds no importance data"):
        read_imatrix(path)


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "ends inside the entry count"),
        (b"\1\0", "ends inside the entry count"),
        (legacy([], count=0), "neither GGUF nor a legacy imatrix"),
        (legacy([], count=-1), "neither GGUF nor a legacy imatrix"),
        (legacy([], count=HUGE), r"claims 2,147,483,647 entries in 4 bytes"),
        (struct.pack("<ii", 1, HUGE) + bytes(40), "the name of entry 0 claims 2,147,483,647 bytes"),
        (struct.pack("<ii", 1, -1) + bytes(40), "the name of entry 0 claims -1 bytes"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, HUGE) + bytes(40), "a claims 2,147,483,647 values"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, 0) + bytes(40), "a claims 0 values"),
        (struct.pack("<ii1sii", 1, 1, b"a", 1, -4) + bytes(40), "a claims -4 values"),
        (legacy([(b"a", 1, VALUES)])[:-1], "a claims 4 values, beyond the end"),
        (legacy([(b"a", 1, VALUES)], b"\1"), "ends inside the chunk count"),
        (legacy([(b"a", 1, VALUES)], struct.pack("<ii", 1, 99)), "the dataset claims 99 bytes"),
        (legacy([(b"a", 1, VALUES), (b"a", 1, VALUES)]), "a is there twice"),
        (legacy([(b"a", 1, VALUES * np.float32("nan"))]), "expected finite and not negative"),
        (b"PK\3\4" + bytes(100), "neither GGUF nor a legacy imatrix"),
    ],
)
def test_hostile_legacy_files(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_imatrix(write(tmp_path, raw))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_imatrix(path)


@pytest.mark.parametrize("kind", ["gguf", "legacy"])
def test_damaged_files_raise_only_input_errors(tmp_path: Path, kind: str) -> None:
    if kind == "gguf":
        raw = write_gguf(tmp_path / "i.gguf", ONE).read_bytes()
    else:
        raw = legacy([(b"blk.0.a", 2, VALUES), (b"b", 3, VALUES)], struct.pack("<ii", 7, 3) + b"abc")
    with within(20):  # hostile sizes must not cost time
        for mutant in mutants(raw, 1500, seed=3):
            try:
                found = read_imatrix(write(tmp_path, mutant))
            except InputError:
                continue
            for entry in found.entries.values():
                assert np.isfinite(entry.importance()).all()


def imatrix_of(**entries: int) -> Imatrix:
    """One count, `n` values of one, for each name."""
    made = {name: Entry(np.ones((1, n), np.float32), np.ones(1, np.int64)) for name, n in entries.items()}
    return Imatrix("some.gguf", made, 1, 512, (), "")


def test_wrong_size_names_tensor_sizes_and_share() -> None:
    shapes = {"a": (8, 4), "b": (8, 4), "c": (8, 4)}
    with pytest.raises(InputError) as caught:
        match_importance(imatrix_of(a=4, b=5), shapes, shapes)
    assert str(caught.value) == (
        "imatrix some.gguf is of another model: b has 5 values, expected 4 (2 of 3 tensors are covered)"
    )
    assert (caught.value.tensor, caught.value.path) == ("b", "some.gguf")


def test_no_tensor_covered_is_another_model() -> None:
    with pytest.raises(InputError, match=r"it knows x, y \(0 of 1 tensor is covered\)"):
        match_importance(imatrix_of(x=4, y=4), {"a": (8, 4)}, {"a"})


def test_wrong_size_of_the_embedding_is_ignored() -> None:
    imatrix = imatrix_of(**{"token_embd.weight": 7, "a": 4})
    found, notes = match_importance(imatrix, {"token_embd.weight": (9, 4), "a": (8, 4)}, {"token_embd.weight", "a"})
    assert (list(found), notes) == (["a"], ())


def test_missing_and_foreign_tensors_are_warnings() -> None:
    shapes = {"a": (8, 4), "b": (8, 4), "output.weight": (8, 4)}
    found, notes = match_importance(imatrix_of(a=4, z=4), shapes, [*shapes, "norm"])
    assert list(found) == ["a"]
    assert notes == (
        ("imatrix-missing", "no importance weights for b: 1 of 3 tensors are covered"),
        ("imatrix-foreign", "the imatrix knows tensors that this model lacks: z"),
    )


def test_nothing_to_cover_is_fine() -> None:
    assert match_importance(imatrix_of(a=4), {}, {"a"}) == ({}, ())
