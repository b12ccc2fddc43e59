"""Model cards: what the front matter says, and that one nobody can read costs little and stops nothing."""

from __future__ import annotations

import random
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
import yaml
from commands import TINY, quantkit

from quantkit.families.general import MAX_RELATED, general_metadata
from quantkit.families.model_card import MAX_BYTES, MAX_DEPTH, MAX_EVENTS, CardError, read_card

MERGES = ["a0: &a0 {k0: 1, k1: 2, k2: 3, k3: 4, k4: 5}"]
MERGES += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9)]

# front matter -> what the warning says
UNREADABLE = {
    "hexadecimal": ("license: 0x" + "f" * 5000, "a number of 5,002 characters"),
    "sixties": ("a: 1" + ":1" * 100_000, "a number of 200,001 characters"),
    "sixties with a point": ("license: 1" + ":1" * 400 + ".5", "a number of 803 characters"),
    "underscores": ("a: 1" + "_1" * 5000, "a number of"),
    "quoted number": ('a: !!int "' + "1" * 5000 + '"', "a number of"),
    "bool": ("license: !!bool maybe", "malformed"),
    "empty int": ('license: !!int ""', "malformed"),
    "no timestamp": ("license: !!timestamp x", "malformed"),
    "no int": ("license: !!int '.'", "invalid literal"),
    "no float": ("license: !!float '.'", "could not convert"),
    "no date": ("license: 2001-99-99", "month must be"),
    "no base64": ("license: !!binary x", "base64"),
    "no key": ("? [a, b]\n: c", "unhashable"),
    "no mapping": ("<<: 3", "expected a mapping"),
    "python": ("license: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "deep lists": ("a: " + "[" * 900 + "]" * 900, "nested too deeply"),
    "deeper lists": ("a: " + "[" * 300_000, "nest"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(1000)), "nested too deeply"),
    "dashes": ("- " * 300_000, "nested too deeply"),
    "many lists": ("a: [" + "[]," * 150_000 + "]", f"more than {MAX_EVENTS:,} values"),
    "many words": ("a: [" + "a," * 400_000 + "]", f"more than {MAX_EVENTS:,} values"),
    "many documents": ("--- \n" * 100_000, f"more than {MAX_EVENTS:,} values"),
    "merges of merges": ("\n".join(MERGES), "aliases"),
    "aliases": ("a: &a b\nc: [" + "*a," * 2000 + "]", "aliases"),
    "itself": ("&a a: *a\n<<: *a", "merging"),
    "NUL": ("a: \0", "not allowed|unacceptable"),
    "escapes": ("a: *\x1b[31m", "ignored|unacceptable|not allowed"),
    "no end": ("\n" * (MAX_BYTES + 1), "does not end within"),
}  # fmt: skip


def card(text: str) -> bytes:
    return f"---\n{text}\n---\n# Title\n".encode()


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_card_nobody_can_read_is_refused_at_once(name: str) -> None:
    text, message = UNREADABLE[name]
    read_card(card("a: 1"))  # the library is loaded
    tracemalloc.start()
    start = time.thread_time()
    try:
        with pytest.raises(CardError, match=message) as caught:
            read_card(card(text))
        assert time.thread_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["hexadecimal", "bool", "no date", "merges of merges", "no end"])
def test_a_card_nobody_can_read_is_a_warning(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "README.md").write_bytes(card(UNREADABLE[name][0]))
    outcome = quantkit("plan", folder, "--to", "f16")
    assert outcome.status == 0
    assert outcome.stderr.count("warning[side-file]: README.md: the model card's front matter is ignored") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("license: 2.0\nversion: 1.10", {"license": 2.0, "version": 1.1}),
        ("tags:\n- no\n- b", {"tags": ["no", "b"]}),
        ("a:\n\tb: 1", {"a": {"b": 1}}),
        ("base: &b {x: 1}\nme: {<<: *b, y: 2}", {"base": {"x": 1}, "me": {"x": 1, "y": 2}}),
        ("license: !!set {a, b}", {"license": {"a", "b"}}),
        ("a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), None),
        ("a: " + "f" * 5000, {"a": "f" * 5000}),
        ("just text", {}),
        ("", {}),
    ],
)
def test_what_cards_say(text: str, expected: object) -> None:
    found = read_card(card(text))
    assert found == (yaml.safe_load(text) if expected is None else expected)


def test_a_file_without_front_matter_says_nothing() -> None:
    assert read_card(b"") == read_card(b"# Title\n---\na: 1\n---\n") == read_card(b"----\na: 1\n") == {}
    assert read_card(b"---\na: 1\n") == {"a": 1}, "the end may be missing"
    start = time.thread_time()
    assert read_card(b"\n" * (64 << 20)) == {}
    assert time.thread_time() - start < 0.5


def test_any_text_is_a_card_or_a_card_error() -> None:
    rng = random.Random(5)
    words = [
        "a", "1", "0x", ":", ": ", "-", "- ", "? ", "[",
        "]", "{", "}", ",", "\n", "\n  ", "&a ", "*a", "<<: ", "!!int ",
        "!!float ", "!!timestamp ", "!!bool ", "!!binary ", "!!set ", "!!omap ", "!!pairs ", "!!str ", "! ", "'", '"',
        "|\n", ">\n", "2001-01-01", ".nan", "-.inf", "~", "yes", "%", "@", "`", "#", "\\", "é", "\ufeff",
        "\x85", "=", "_",
    ]  # fmt: skip
    accepted = 0
    for _ in range(4000):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(1, 12)))
        try:
            read_card(card(text))
        except CardError as error:
            assert str(error).isprintable()
        else:
            accepted += 1
    assert 400 < accepted < 3600


def test_only_so_many_models_are_named() -> None:
    data = card("datasets:\n" + "- org/name\n" * (MAX_RELATED + 1))
    found = general_metadata("m", {}, lambda name: data if name == "README.md" else None, [])
    assert next(entry.value for entry in found.metadata if entry.key == "general.dataset.count") == MAX_RELATED
