"""The check without llama.cpp: it passes what is right, and finds what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_kinds import Kind, added, dumped, kind
from tokenizers import Tokenizer as Library

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.known import family_named
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import check_tokenizer, comparable_probes, rebuild
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import read_tokenizer

PREFIX = "tokenizer.ggml."


def metadata(made: Kind) -> tuple[KeyValue, ...]:
    return read_tokenizer(made.read_file, made.config, made.rules).metadata


def with_value(entries: Sequence[KeyValue], key: str, change: Callable[[Any], Any]) -> tuple[KeyValue, ...]:
    assert any(entry.key == PREFIX + key for entry in entries)
    return tuple(KeyValue(e.key, e.kind, change(e.value), e.array) if e.key == PREFIX + key else e for e in entries)


def without(entries: Sequence[KeyValue], key: str) -> tuple[KeyValue, ...]:
    return tuple(entry for entry in entries if entry.key != PREFIX + key)


def exchanged(items: Sequence[Any], first: int, second: int) -> tuple[Any, ...]:
    listed = list(items)
    listed[first], listed[second] = listed[second], listed[first]
    return tuple(listed)


DAMAGE: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "two merges swapped": ("qwen2", "merges", lambda m: exchanged(m, 0, 300)),
    "merges turned around": ("llama3", "merges", lambda m: tuple(reversed(m))),
    "two tokens swapped": ("phi4", "tokens", lambda t: exchanged(t, 64, 65)),
    "another pre-tokenizer": ("qwen2", "pre", lambda name: "gpt-2"),
    "digits one by one": ("phi4", "pre", lambda name: "qwen2"),
    "another BOS": ("llama3", "bos_token_id", lambda index: index + 1),
    "no BOS": ("llama3", "add_bos_token", lambda flag: False),
    "an EOS too much": ("qwen2", "add_eos_token", lambda flag: True),
    "scores turned around": ("llama_spm", "scores", lambda s: tuple(-x for x in s)),
    "a constant score": ("tinyllama_json", "scores", lambda s: (-1000.0,) * len(s)),
    "two pieces swapped": ("llama_spm", "tokens", lambda t: exchanged(t, 300, 301)),
    "a special token made ordinary": ("phi3", "token_type", lambda t: (*t[:2049], 1, *t[2050:])),
    "a prefix space": ("gemma2", "add_space_prefix", lambda flag: True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_vocabulary_that_is_not_the_sources_is_found(name: str) -> None:
    base, key, change = DAMAGE[name]
    made = kind(base)
    entries = metadata(made)
    if key == "add_eos_token" and all(e.key != PREFIX + key for e in entries):
        entries = (*entries, KeyValue(PREFIX + key, "bool", False))
    sound = check_tokenizer(entries, made.read_file, made.config)
    assert (sound.ok, sound.total) == (True, 2000)
    found = check_tokenizer(with_value(entries, key, change), made.read_file, made.config)
    assert not found.ok
    assert "the source has" in found.difference


@pytest.mark.parametrize("base", ["llama_spm", "gemma2"])
def test_the_source_of_a_sentencepiece_model_is_sentencepiece(base: str) -> None:
    made = kind(base)
    encode = open_source_tokenizer(made.read_file, made.config).encoder(add_special=False)
    library = SentencePieceProcessor(model_proto=made.files["tokenizer.model"])
    plain = [text for text in probes() if "<" not in text and "[" not in text]
    assert len(plain) > 1000
    assert [text for text in plain if encode(text) != library.EncodeAsIds(text)] == []
    bos = library.bos_id()
    assert open_source_tokenizer(made.read_file, made.config).encoder()("a") == [bos, *library.EncodeAsIds("a")]
    eos, start, end = library.IdToPiece(library.eos_id()), library.EncodeAsIds("a"), library.EncodeAsIds("b")
    assert encode(f"a{eos}b") == [*start, library.eos_id(), *end]


@pytest.mark.parametrize("base", ["llama3", "qwen2", "phi4", "smollm", "tinyllama_json", "mistral_json"])
def test_the_source_of_a_tokenizer_json_is_the_tokenizers_library(base: str) -> None:
    made = kind(base)
    library = Library.from_str(made.files["tokenizer.json"].decode())
    encode = open_source_tokenizer(made.read_file, made.config).encoder()
    assert [text for text in probes() if encode(text) != library.encode(text).ids] == []


def test_tokens_of_the_settings_alone_are_known_to_the_source() -> None:
    made = kind("phi4")
    settings = {**made.parsed("tokenizer_config.json"), "additional_special_tokens": ["<|late|>"]}
    made = made.but(tokenizer_config__json=dumped(settings))
    encode = open_source_tokenizer(made.read_file, made.config).encoder()
    assert encode("a<|late|>b")[1] == 1505
    found = check_tokenizer(metadata(made), made.read_file, made.config)
    assert (found.ok, found.total) == (True, 2000), found


def test_the_longest_of_special_tokens_at_one_place_counts() -> None:
    made = kind("phi4")
    raw = made.parsed("tokenizer.json")
    raw["added_tokens"] += [added(1505, "<x>"), added(1506, "<x>y"), added(1507, "<x")]
    made = made.but(tokenizer__json=dumped(raw))
    encode = open_source_tokenizer(made.read_file, made.config).encoder()
    library = Library.from_str(dumped(raw).decode())
    for text in ("<x>y", "<x>z", "<xy", "a<x><x>y<x"):
        assert encode(text) == library.encode(text).ids
    assert encode("<x>y") == [1506]


def test_truncation_and_padding_of_a_tokenizer_json_do_not_count() -> None:
    made = kind("phi4")
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    raw = {**made.parsed("tokenizer.json"), "truncation": cut, "padding": {**pad, "pad_token": "!"}}
    made = made.but(tokenizer__json=dumped(raw))
    found = check_tokenizer(metadata(made), made.read_file, made.config)
    assert (found.ok, found.total) == (True, 2000), found


def test_an_explicit_prefix_setting_is_the_sources() -> None:
    """add_prefix_space of tokenizer_config.json, which transformers goes by and the reference writes."""
    made = kind("llama_spm")
    made = made.but(tokenizer_config__json=dumped({**made.parsed("tokenizer_config.json"), "add_prefix_space": False}))
    tokenizer = read_tokenizer(made.read_file, made.config, family_named("llama").tokens)
    assert "tokenizer-space-prefix" in dict(tokenizer.warnings)
    found = check_tokenizer(tokenizer.metadata, made.read_file, made.config)
    assert (found.ok, found.total) == (True, 2000), found


def test_own_special_tokens_are_in_the_probes() -> None:
    made = kind("qwen2")
    texts = comparable_probes(metadata(made), made.read_file, made.config)
    assert sum("<tool_call>" in text for text in texts) > 50
    assert "<start_of_turn>" in texts


def test_long_special_tokens_are_cut_out_first() -> None:
    entries = metadata(kind("llama_spm_model_only"))
    tokens = next(e.value for e in entries if e.key == PREFIX + "tokens")
    types = next(e.value for e in entries if e.key == PREFIX + "token_type")
    assert isinstance(tokens, tuple)
    assert isinstance(types, tuple)
    entries = with_value(entries, "tokens", lambda t: (*t[:1998], "<a>", "<a><b>"))
    entries = with_value(entries, "token_type", lambda t: (*t[:1998], 3, 4))
    entries = with_value(entries, "scores", lambda s: s[:2000])
    encode = rebuild(entries, add_special=False)
    assert encode("<a><b><a>") == [1999, 1998]
    assert encode("<s></s>") == [1, 2]
    assert encode("") == []


BROKEN: dict[str, tuple[str, Callable[[tuple[KeyValue, ...]], tuple[KeyValue, ...]], str]] = {
    "no tokens": ("phi4", lambda e: without(e, "tokens"), "tokens: missing"),
    "no types": ("phi4", lambda e: without(e, "token_type"), "token_type: missing"),
    "types of others": ("phi4", lambda e: with_value(e, "token_type", lambda t: t[1:]), "types"),
    "a type of 99": ("phi4", lambda e: with_value(e, "token_type", lambda t: (99, *t[1:])), "types"),
    "no merges": ("phi4", lambda e: without(e, "merges"), "merges: missing"),
    "a merge of strangers": ("phi4", lambda e: with_value(e, "merges", lambda m: ("no where", *m)), "merge 0"),
    "no scores": ("llama_spm", lambda e: without(e, "scores"), "scores: missing"),
    "too few scores": ("llama_spm", lambda e: with_value(e, "scores", lambda s: s[1:]), "scores"),
    "scores that are words": ("llama_spm", lambda e: with_value(e, "scores", lambda s: ("high", *s[1:])), "scores"),
    "a BOS beyond": ("llama_spm", lambda e: with_value(e, "bos_token_id", lambda i: 99999), "99999 is no token"),
    "two tokens alike": ("llama_spm", lambda e: with_value(e, "tokens", lambda t: (*t[:-1], t[-2])), "sentencepiece"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_entries_that_contradict_themselves_are_input_errors(name: str) -> None:
    base, change, why = BROKEN[name]
    with pytest.raises(InputError, match=why):
        rebuild(change(metadata(kind(base))))


def test_vocabularies_that_cannot_be_rebuilt_are_unsupported() -> None:
    entries = metadata(kind("phi4"))
    for key, value in (("model", "unheard-of"), ("pre", "superbpe"), ("pre", "unheard-of")):
        with pytest.raises(UnsupportedError, match="cannot be rebuilt"):
            rebuild(with_value(entries, key, lambda _, new=value: new))


def test_a_post_processor_that_drops_the_text_is_a_difference_and_no_crash() -> None:
    made = kind("phi4")
    raw = made.parsed("tokenizer.json")
    raw["post_processor"] = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    found = check_tokenizer(metadata(made), made.but(tokenizer__json=dumped(raw)).read_file, made.config)
    assert not found.ok


def test_a_source_without_a_tokenizer_is_an_error() -> None:
    made = kind("phi4").but(tokenizer__json=None)
    with pytest.raises(QuantkitError, match="this folder has no tokenizer files"):
        open_source_tokenizer(made.read_file, made.config).encoder()
    made = made.but(vocab__json=b"{}")
    with pytest.raises(QuantkitError, match=r"but vocab\.json alone"):
        open_source_tokenizer(made.read_file, made.config).encoder()
