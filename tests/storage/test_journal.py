"""The journal as bytes: what it keeps through truncation, damage and hostile lines."""

from __future__ import annotations

import json
import math
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.storage.journal import Move, PartFile, Record, header_line, move_line, record_line, replay

FILES = (PartFile("a.gguf", 1000), PartFile("b.gguf", 50))
RECORDS = tuple(Record(f"blk.{i}.weight", i % 2, i * 5, 5, f"{i:064x}", {"rmse": i / 3, "n": i}) for i in range(6))
HEADER = header_line("d" * 64, FILES)
LOG = HEADER + b"".join(map(record_line, RECORDS)) + move_line(Move(1, "b.gguf", "e" * 64))


def line(entry: object) -> bytes:
    """A line with a right checksum, made without the code under test."""
    body = json.dumps(entry).encode()
    return b'{"crc32":"%08x",' % zlib.crc32(body) + body[1:] + b"\n"


def test_a_journal_reads_back() -> None:
    history = replay(LOG, "d" * 64, FILES)
    assert history is not None
    assert tuple(history.records.values()) == RECORDS
    assert history.moves == {1: Move(1, "b.gguf", "e" * 64)}


def test_every_line_is_json_with_its_own_checksum() -> None:
    for text in LOG.splitlines():
        entry = json.loads(text)
        crc32 = entry.pop("crc32")
        body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        assert int(crc32, 16) == zlib.crc32(body)


@given(st.builds(Record, st.text(max_size=60), st.just(1), st.integers(0, 20), st.integers(0, 30), st.text(),
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False))))  # fmt: skip
@settings(derandomize=True, deadline=None)
def test_any_record_reads_back(record: Record) -> None:
    history = replay(HEADER + record_line(record), "d" * 64, FILES)
    assert history is not None
    assert history.records == {record.tensor: record}


def test_a_figure_that_is_not_a_number_reads_back() -> None:
    history = replay(HEADER + record_line(Record("t", 0, 0, 1, "", {"db": math.inf})), "d" * 64, FILES)
    assert history is not None
    assert history.records["t"].extra == {"db": math.inf}


def test_a_cut_journal_keeps_its_whole_lines() -> None:
    for length in range(len(LOG)):
        history = replay(LOG[:length], "d" * 64, FILES)
        whole = LOG[: length + 1].count(b"\n")  # a line of which only the end of line is missing is whole
        if whole == 0:
            assert history is None
        else:
            assert history is not None
            assert tuple(history.records.values()) == RECORDS[: whole - 1]


@given(st.integers(0, len(LOG) * 8 - 1))
@settings(derandomize=True, max_examples=500, deadline=None)
def test_a_flipped_bit_costs_lines_and_invents_nothing(bit: int) -> None:
    damaged = bytearray(LOG)
    damaged[bit // 8] ^= 1 << bit % 8
    history = replay(bytes(damaged), "d" * 64, FILES)
    if bit < len(HEADER) * 8:
        assert history is None
    else:
        assert history is not None
        assert all(record in RECORDS for record in history.records.values())
        assert len(RECORDS) - 2 <= len(history.records)


@pytest.mark.parametrize(
    "other",
    [
        header_line("e" * 64, FILES),
        header_line("d" * 64, FILES[:1]),
        header_line("d" * 64, (PartFile("a.gguf", 1001), FILES[1])),
        HEADER.replace(b'"journal":1', b'"journal":2'),
        b"",
        b"\n",
        b"\0" * 100,
    ],
    ids=["digest", "files", "size", "version", "empty", "blank", "zeros"],
)
def test_another_jobs_journal_is_not_believed(other: bytes) -> None:
    assert replay(other + record_line(RECORDS[0]), "d" * 64, FILES) is None


GOOD = {"tensor": "t", "file": 0, "offset": 0, "nbytes": 5, "sha256": "ab", "extra": {}}


@pytest.mark.parametrize(
    "entry",
    [
        GOOD | {"file": 2},
        GOOD | {"file": -1},
        GOOD | {"file": "0"},
        GOOD | {"offset": -1},
        GOOD | {"offset": 996},
        GOOD | {"nbytes": -5},
        GOOD | {"nbytes": 10**30},
        GOOD | {"nbytes": 5.0},
        GOOD | {"tensor": ["t"]},
        {"tensor": "t"},
        {"moving": 2, "target": "x", "sha256": ""},
        {"moving": 0, "target": 3, "sha256": ""},
        {"x": [[[[]]]]},
        {},
    ],
    ids=str,
)
def test_a_line_that_makes_no_sense_is_skipped(entry: object) -> None:
    history = replay(HEADER + line(entry) + line(GOOD | {"tensor": "next"}), "d" * 64, FILES)
    assert history is not None
    assert list(history.records) == ["next"]
    assert not history.moves


def test_hostile_nesting_is_skipped() -> None:
    body = b'{"tensor":' + b"[" * 100_000
    deep = b'{"crc32":"%08x",' % zlib.crc32(body) + body[1:] + b"\n"
    history = replay(HEADER + deep + record_line(RECORDS[0]), "d" * 64, FILES)
    assert history is not None
    assert list(history.records) == [RECORDS[0].tensor]


def test_the_last_line_of_a_tensor_counts() -> None:
    again = Record("blk.0.weight", 0, 0, 5, "f" * 64, {})
    history = replay(LOG + record_line(again), "d" * 64, FILES)
    assert history is not None
    assert history.records["blk.0.weight"] == again
