"""Showing, opening and parsing what comes from outside."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from machine_speed import within

from quantkit.errors import InputError
from quantkit.jsontext import dump_json
from quantkit.untrusted import listed, open_input, parse_json_object, read_bounded, shown, unique_pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain größe 日本 😀", "plain größe 日本 😀"),
        ("a\x1b[31mred\n", r"a\x1b[31mred\n"),
        ("left\u202eright", r"left\u202eright"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\ud800", r"\ud800"),
        (b"bytes \xff", r"bytes \udcff"),
        ("x" * 120, "x" * 120),
        ("x" * 5000, "x" * 120 + "... (5,000 characters)"),
        (Path("a/b\n"), r"a/b\n"),
    ],
)
def test_shown(text: str | bytes | Path, expected: str) -> None:
    assert shown(text) == expected


def test_listed() -> None:
    assert listed(["a", "b\n"]) == r"a, b\n"
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_values_are_counted_before_they_are_built() -> None:
    raw = b'{"a": [1, 2, 3]}'  # 1 object, 1 list, 2 commas
    assert parse_json_object(raw, Path("x"), values=4) == {"a": [1, 2, 3]}
    with pytest.raises(InputError, match="more than 3 JSON values"):
        parse_json_object(raw, Path("x"), values=3)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("18446744073709551616", 2**64),
        ("1000000000000000019884624838656", int(1e30)),  # what transformers writes for "no limit"
        ("-1000000000000000019884624838656", -int(1e30)),
        ("9" * 307, 10**307 - 1),
        ("9" * 309, math.inf),
        ("-" + "9" * 309, -math.inf),
        ("1" * 5000, math.inf),  # Python's int() refuses these
        ("1e400", math.inf),
        ("-1e400", -math.inf),
        ("1e-400", 0.0),
        ("-0", 0),
        ("-0.0", -0.0),
        ("0." + "1" * 5000, 1 / 9),
        ("1E+2", 100.0),
    ],
)
def test_numbers_of_any_length(number: str, expected: float) -> None:
    found = parse_json_object(b'{"a":[%s]}' % number.encode(), Path("x"))["a"][0]
    assert found == expected
    assert type(found) is type(expected)
    assert math.copysign(1, found) == math.copysign(1, expected)
    float(found)  # never an OverflowError


def test_long_numbers_take_no_long_time() -> None:
    """int() takes a time that grows with the square of the digits: minutes for these."""
    long = b"1" * 5_000_000
    with within(2):
        found = parse_json_object(b'{"a":%s,"b":%s.5,"c":0.%s,"d":1e%s}' % (long, long, long, long), Path("x"))
    assert (found["a"], found["b"], found["d"]) == (math.inf, math.inf, math.inf)


def test_duplicate_names() -> None:
    with pytest.raises(InputError, match=r"not valid JSON: duplicate names: b$"):
        parse_json_object(b'{"a": 1, "b": 2, "c": 3, "b": 4}', Path("x"), pairs=unique_pairs)
    assert parse_json_object(b'{"b": 2, "b": 4}', Path("x")) == {"b": 4}


def test_files_are_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert read_bounded(path, 3) == b"abc"
    with pytest.raises(InputError, match="has 3 bytes, at most 2 are read"):
        read_bounded(path, 2)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4), (4, 4)])
def test_reads_stay_inside(start: int, stop: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    source = open_input(tmp_path / "x")
    assert source.read(1, 3).tobytes() == b"bc"
    assert source.read(3, 3).size == 0
    with pytest.raises(InputError, match="has 3 bytes"):
        source.read(start, stop)
    source.close()


def test_a_failing_read_names_the_file(tmp_path: Path) -> None:
    """A disk that gives errors is rare; a folder in place of the descriptor gives one as well."""
    (tmp_path / "x").write_bytes(b"abc")
    source = open_input(tmp_path / "x")
    other = os.open(tmp_path, os.O_RDONLY)
    os.dup2(other, source.handle.fileno())
    os.close(other)
    with pytest.raises(InputError, match="cannot be read: Is a directory") as caught:
        source.read(0, 3)
    assert caught.value.path == str(tmp_path / "x")
    source.close()


def test_links_are_followed_unless_told_not_to(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    open_input(tmp_path / "link").close()
    with pytest.raises(InputError, match="may not be followed"):
        open_input(tmp_path / "link", follow=False)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
def test_records_hold_finite_numbers(word: str) -> None:
    raw = f'{{"a": [{word}, 1]}}'.encode()
    with pytest.raises(InputError, match="is not finite"):
        parse_json_object(raw, Path("x"), finite=True)
    assert len(parse_json_object(raw, Path("x"))["a"]) == 2
    assert parse_json_object(b'{"a": [1e300, 12345678901234567890]}', Path("x"), finite=True)


def test_json_that_is_written_can_be_written() -> None:
    value = {"é": [float("nan"), 1.5, (float("inf"),), "中"]}
    assert dump_json(value) == '{"é": [null, 1.5, [null], "中"]}'
    assert dump_json(value, carried=True) == '{"é": [NaN, 1.5, [Infinity], "中"]}'
    written = '{"a": [NaN, Infinity, -Infinity, 1.5, "##0", "#0"], "#1": {"b": %s, "c": %s}, "d": [%s, %s]}'
    written %= ("-" + "9" * 309, "1" * 5000, "1e400", "1" + "0" * 308)
    read = parse_json_object(written.encode(), Path("x"), digits=True)
    assert dump_json(read, carried=True) == written  # as transformers wrote it
    assert "Infinity" not in dump_json(read)
    halves = {"\ud800": ["é", "\udfff", float("-inf")]}
    assert dump_json(halves) == r'{"\ud800": ["é", "\udfff", null]}'
    assert json.loads(dump_json(halves)) == {"\ud800": ["é", "\udfff", None]}
    assert dump_json({"a": 1}, indent=1) == '{\n "a": 1\n}'
