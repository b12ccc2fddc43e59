"""The probe strings: fixed, distinct, and of the kinds they are meant to be."""

from __future__ import annotations

import hashlib
import unicodedata

from quantkit.tokenizer.probes import SPECIAL, probes


def test_there_are_2000_distinct_probes_and_they_never_change() -> None:
    texts = probes()
    assert len(set(texts)) == len(texts) == 2000
    joined = "\0".join(texts).encode()
    assert hashlib.sha256(joined).hexdigest() == "00f2b65230f4a407a0f960ee1a9118b665cc6b12bbad13b4f0ac8c37598531e6"
    assert probes() == texts


def test_they_are_text_that_every_library_reads_alike() -> None:
    for text in probes():
        assert unicodedata.is_normalized("NFC", text)
        assert "\0" not in text
        assert "▁" not in text
        assert all(unicodedata.category(c) not in {"Cn", "Cs", "Co"} for c in text)


def test_they_have_what_trips_tokenizers() -> None:
    texts = probes()
    characters = {c for text in texts for c in text}
    scripts = {unicodedata.name(c).split(" ")[0] for c in characters if c.isalpha()}
    assert scripts >= {
        "LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "KHMER", "CJK",
        "HIRAGANA", "KATAKANA", "HANGUL", "ETHIOPIC", "GEORGIAN",
    }  # fmt: skip
    assert "" in texts
    assert sum(text.startswith(" ") for text in texts) > 50
    assert sum(text.endswith((" ", "\n")) for text in texts) > 100
    assert sum("  " in text for text in texts) > 200
    assert sum("\r\n" in text for text in texts) > 20
    assert sum(any(c.isdigit() for c in text) for text in texts) > 200
    assert sum(any(unicodedata.category(c) == "So" for c in text) for text in texts) > 200
    assert sum(any(unicodedata.category(c) == "Mn" for c in text) for text in texts) > 200
    assert sum(any(token in text for token in SPECIAL) for text in texts) > 400


def test_a_vocabularys_own_special_tokens_are_put_into_text() -> None:
    texts = probes(("<mine>", "", "[other]"))
    assert len(set(texts)) == 2000
    for token in ("<mine>", "[other]"):
        assert sum(token in text for text in texts) > 100
        assert any(text.startswith(token) and text != token for text in texts)
