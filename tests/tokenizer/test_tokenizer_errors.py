"""Broken and hostile tokenizer files: an error that names the file and the key, never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_speed import within
from tokenizer_kinds import Kind, added, dumped, kind

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.tokenizer.check import rebuild
from quantkit.tokenizer.read import Tokenizer, read_tokenizer
from quantkit.tokenizer.sentencepiece_model import BPE, Piece, SentencePieceModel, encode_sentencepiece
from quantkit.tokenizer.vocabulary import TokenType

Change = Callable[[dict[str, Any]], object]


def read(made: Kind, pre: str | None = None) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules, pre=pre)


def changed(base: str, name: str, change: Change) -> Kind:
    made = kind(base)
    raw = made.parsed(name)
    change(raw)
    return made.but(**{name.replace(".", "__"): dumped(raw)})


def tokenizer_json(change: Change, base: str = "phi4") -> Kind:
    return changed(base, "tokenizer.json", change)


def half_a_surrogate() -> Kind:
    data = dumped(kind("phi4").parsed("tokenizer.json"))
    return raw_file("tokenizer.json", data.replace(b'"!": ', b'"\\ud800": '))


def model_with(tail: bytes) -> Kind:
    """Gemma's tokenizer.model with a further specification at its end, which counts."""
    return raw_file("tokenizer.model", kind("gemma2").files["tokenizer.model"] + tail, "gemma2")


def vocab(**entries: Any) -> Change:
    return lambda raw: raw["model"]["vocab"].update(entries)


def model(**entries: Any) -> Change:
    return lambda raw: raw["model"].update(entries)


def merge(entry: Any) -> Change:
    return lambda raw: raw["model"]["merges"].append(entry)


def one_added(entry: Any) -> Change:
    return lambda raw: raw["added_tokens"].append(entry)


def rows(count: Any, base: str = "phi4") -> Kind:
    made = kind(base)
    return made.but(config__json=dumped({**made.config, "vocab_size": count}))


def listed(entries: Any, base: str = "gemma2") -> Kind:
    return changed(base, "tokenizer_config.json", lambda raw: raw.update(added_tokens_decoder=entries))


def raw_file(name: str, data: bytes, base: str = "phi4") -> Kind:
    return kind(base).but(**{name.replace(".", "__"): data})


BROKEN: dict[str, tuple[Callable[[], Kind], str]] = {
    "no files": (lambda: kind("phi4").but(tokenizer__json=None), "no tokenizer.model and no tokenizer.json"),
    "not JSON": (lambda: raw_file("tokenizer.json", b"{"), "not valid JSON"),
    "not UTF-8": (lambda: raw_file("tokenizer.json", b'{"a": "\xff"}'), "not UTF-8"),
    "a list": (lambda: raw_file("tokenizer.json", b"[]"), "expected a JSON object"),
    "byte fallback with a type that is an object": (
        lambda: tokenizer_json(lambda raw: raw.update(pre_tokenizer={"type": {"type": "Split"}}), "tinyllama_json"),
        "pre_tokenizer is .*an object with a type",
    ),
    "byte fallback with a type that is a list": (
        lambda: tokenizer_json(lambda raw: raw["normalizer"]["normalizers"].append({"type": ["NFC"]}),
                               "tinyllama_json"), "normalizer is .*an object with a type",
    ),
    "nested without end": (lambda: raw_file("tokenizer.json", b'{"a":' + b"[" * 200_000), "nested too deeply"),
    "an id of 10^6 digits": (
        lambda: raw_file("tokenizer.json", b'{"model":{"merges":[],"vocab":{"a":' + b"9" * 10**6 + b"}}}"),
        r'model.vocab\["a"\] is inf',
    ),
    "an id of 31 digits": (lambda: tokenizer_json(vocab(new=10**30)), r'model.vocab\["new"\] is 1000000'),
    "a key twice": (lambda: raw_file("tokenizer.json", b'{"model": {}, "model": {}}'), '"model" occurs twice'),
    "a token twice": (
        lambda: raw_file("tokenizer.json", b'{"model": {"vocab": {"a": 0, "a": 1}}}'), '"a" occurs twice',
    ),
    "no model": (lambda: tokenizer_json(lambda raw: raw.pop("model")), "model is NoneType"),
    "no vocabulary": (lambda: tokenizer_json(model(vocab=None)), "model.vocab"),
    "an empty vocabulary": (lambda: tokenizer_json(model(vocab={})), "model.vocab is 0 entries"),
    "a vocabulary of pairs": (lambda: tokenizer_json(model(vocab=[["a", 1.0]])), "model.vocab is list"),
    "an id twice": (lambda: tokenizer_json(vocab(new=5)), 'and "new" both have id 5'),
    "a negative id": (lambda: tokenizer_json(vocab(new=-1)), r'model.vocab\["new"\] is -1'),
    "an id of 2^60": (lambda: tokenizer_json(vocab(new=2**60)), r'model.vocab\["new"\]'),
    "an id that is text": (lambda: tokenizer_json(vocab(new="5")), r'model.vocab\["new"\]'),
    "an id that is true": (lambda: tokenizer_json(vocab(new=True)), r'model.vocab\["new"\] is True'),
    "an id of 1.5": (lambda: tokenizer_json(vocab(new=1.5)), r'model.vocab\["new"\]'),
    "an empty token": (lambda: tokenizer_json(vocab(**{"": 9000})), "0 characters"),
    "half a surrogate": (half_a_surrogate, "surrogate|merges"),
    "no merges": (lambda: tokenizer_json(model(merges=None)), "model.merges"),
    "a merge of an unknown token": (lambda: tokenizer_json(merge(["never", "seen"])), '"never" is not'),
    "a merge into an unknown token": (lambda: tokenizer_json(merge(["!", "z"])), '"!z" is not'),
    "a merge of three": (lambda: tokenizer_json(merge(["a", "b", "c"])), "expected two tokens"),
    "a merge of numbers": (lambda: tokenizer_json(merge([1, 2])), "expected two tokens"),
    "a merge that is a number": (lambda: tokenizer_json(merge(7)), "expected two tokens"),
    "an added token without content": (lambda: tokenizer_json(one_added({"id": 1505})), r"added_tokens\[5\]"),
    "an added token that is text": (lambda: tokenizer_json(one_added("<x>")), r"added_tokens\[5\]"),
    "an added token without id": (lambda: tokenizer_json(one_added({"content": "<x>"})), r"added_tokens\[5\]"),
    "added tokens by name": (lambda: tokenizer_json(lambda raw: raw.update(added_tokens={})), "added_tokens is"),
    "a post-processor that is text": (
        lambda: tokenizer_json(lambda raw: raw.update(post_processor="ByteLevel"), "llama_spm"),
        "post_processor",
    ),
    "a template that is text": (
        lambda: tokenizer_json(
            lambda raw: raw.update(post_processor={"type": "TemplateProcessing", "single": "A"}), "llama_spm"
        ),
        "post_processor.single",
    ),
    "more tokens than rows": (lambda: rows(1000), "one of the embedding's 1,000 rows"),
    "more pieces than rows": (lambda: rows(1000, "llama_spm"), "at most the embedding's 1,000 rows"),
    "more byte-fallback tokens than rows": (lambda: rows(1000, "tinyllama_json"), "one of the embedding's 1,000 rows"),
    "no rows": (lambda: rows(0), "embedding's 0 rows"),
    "a negative number of rows": (lambda: rows(-1), "vocab_size is -1"),
    "2^40 rows": (lambda: rows(2**40), "vocab_size is"),
    "rows as text": (lambda: rows("2048"), "vocab_size is 2048"),
    "settings that are no JSON": (lambda: raw_file("tokenizer_config.json", b"<html>"), "tokenizer_config.json"),
    "listed tokens that are a list": (lambda: listed([]), "added_tokens_decoder is list"),
    "a listed id that is a name": (lambda: listed({"one": {"content": "a"}}), "added_tokens_decoder.one"),
    "a listed id of 100 digits": (lambda: listed({"9" * 100: {"content": "a"}}), "added_tokens_decoder.9"),
    "a listed token without content": (lambda: listed({"7": {}}), "added_tokens_decoder.7"),
    "added_tokens.json with text": (lambda: raw_file("added_tokens.json", b'{"<a>": "7"}', "llama_spm"), '"<a>" is 7'),
    "a prefix space that is a word": (
        lambda: changed("llama_spm", "tokenizer_config.json", lambda raw: raw.update(add_prefix_space="yes")),
        "add_prefix_space is yes",
    ),
    "templates without end": (
        lambda: changed("llama_spm", "tokenizer_config.json",
                        lambda raw: raw.update(chat_template=[{"name": "a", "template": "b"}] * 65)),
        "65 templates",
    ),
    "a template that is a number": (
        lambda: changed("llama_spm", "tokenizer_config.json",
                        lambda raw: raw.update(chat_template=[{"name": "a", "template": 1}])),
        r"chat_template\[0\]",
    ),
    "a template file that is not UTF-8": (
        lambda: changed("llama3", "tokenizer_config.json", lambda raw: raw.pop("chat_template")).but(
            chat_template__jinja=b"\xff"
        ), "chat_template.jinja: not UTF-8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_input_errors_that_name_what_is_wrong(name: str) -> None:
    make, why = BROKEN[name]
    made = make()
    with within(5), pytest.raises(InputError, match=why) as caught:
        read(made)
    assert caught.value.hint
    assert caught.value.path or caught.value.key


UNSUPPORTED: dict[str, tuple[Callable[[], Kind], str]] = {
    "unigram": (lambda: tokenizer_json(model(type="Unigram")), '"Unigram"; only BPE'),
    "word pieces": (lambda: tokenizer_json(model(type="WordPiece")), "only BPE"),
    "a suffix": (lambda: tokenizer_json(model(end_of_word_suffix="</w>")), "end_of_word_suffix"),
    "dropout": (lambda: tokenizer_json(model(dropout=0.1)), "dropout"),
    "another decoder": (lambda: tokenizer_json(lambda raw: raw.update(decoder={"type": "BPEDecoder"})), "BPEDecoder"),
    "no decoder": (lambda: tokenizer_json(lambda raw: raw.update(decoder=None)), "decoder"),
    "byte fallback with a pattern": (
        lambda: tokenizer_json(lambda raw: raw.update(pre_tokenizer={"type": "Digits", "individual_digits": True}),
                               "tinyllama_json"), "pre_tokenizer is",
    ),
    "byte fallback without spaces": (
        lambda: tokenizer_json(lambda raw: raw.update(normalizer=None), "tinyllama_json"), "normalizer is None",
    ),
    "byte fallback in lower case": (
        lambda: tokenizer_json(lambda raw: raw.update(normalizer={"type": "Lowercase"}), "tinyllama_json"), "Lowercase",
    ),
    "tiktoken alone": (lambda: raw_file("tokenizer.model", b"IQ== 0\n").but(tokenizer__json=None), "tiktoken"),
    "a unigram model": (lambda: model_with(b"\x12\x02\x18\x01"), "not a BPE model"),
    "spaces after words": (lambda: model_with(b"\x12\x03\xc0\x01\x01"), "spaces after words"),
    "plain spaces": (lambda: model_with(b"\x1a\x02\x28\x00"), r"U\+2581"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_tokenizers_that_llama_cpp_lacks_are_named(name: str) -> None:
    make, why = UNSUPPORTED[name]
    with pytest.raises(UnsupportedError, match=why) as caught:
        read(make())
    assert caught.value.hint


def test_a_missing_tokenizer_names_what_lies_there_instead() -> None:
    made = kind("phi4").but(tokenizer__json=None, vocab__json=b"{}")
    with pytest.raises(InputError, match=r"there is vocab\.json, which is not enough"):
        read(made)


def test_a_huge_file_is_refused_before_it_is_parsed() -> None:
    big = bytes(256 * 2**20 + 1)
    made = kind("phi4").but(tokenizer__json=big)
    with pytest.raises(InputError, match="at most 268,435,456 are read"):
        read(made)


def test_a_tiktoken_file_beside_a_tokenizer_json_does_not_count() -> None:
    assert read(raw_file("tokenizer.model", b"IQ== 0\n", "llama3")) == read(kind("llama3"))


SPM_WARNINGS = {
    "repeated spaces": (b"\x1a\x02\x20\x01", "drops repeated spaces"),
    "normal forms": (b"\x1a\x06\x12\x04abcd", "normalizes Unicode"),
}


@pytest.mark.parametrize("name", SPM_WARNINGS)
def test_normalizers_of_sentencepiece_are_reported(name: str) -> None:
    tail, why = SPM_WARNINGS[name]
    made = kind("gemma2")
    tokenizer = read(made.but(tokenizer__model=made.files["tokenizer.model"] + tail))
    assert any(why in message for code, message in tokenizer.warnings if code == "tokenizer-normalizer")
    assert tokenizer.sha256 != read(made).sha256


def test_tokens_of_the_settings_beyond_the_embedding_are_left_out_with_a_warning() -> None:
    made = kind("phi4")
    added_late = changed("phi4", "tokenizer_config.json", lambda raw: raw.update(mask_token="<|late|>"))
    full = added_late.but(config__json=dumped({**made.config, "vocab_size": 1505}))
    tokenizer = read(full)
    assert tokenizer.vocab_size == 1505
    [(code, message)] = tokenizer.warnings
    assert code == "tokenizer-added"
    assert "<|late|>" in message


def test_missing_byte_tokens_are_reported() -> None:
    made = kind("tinyllama_json")
    raw = made.parsed("tokenizer.json")
    raw["model"]["vocab"]["<0xfe>"] = raw["model"]["vocab"].pop("<0xFE>")
    tokenizer = read(made.but(tokenizer__json=dumped(raw)))
    assert dict(tokenizer.warnings)["tokenizer-bytes"].startswith("1 of the 256")
    assert dict(read(SMALL_SPM).warnings)["tokenizer-bytes"].startswith("255 of the 256")  # "a" is a piece
    assert rebuild(read(SMALL_SPM).metadata, add_special=False)("a b") == [0, 1, 0]


def test_ids_that_are_no_tokens_are_left_out_with_a_warning() -> None:
    made = kind("llama_spm")
    tokenizer = read(made.but(config__json=dumped({**made.config, "pad_token_id": -1, "sep_token_id": 99999})))
    keys = {entry.key for entry in tokenizer.metadata}
    assert not keys & {"tokenizer.ggml.padding_token_id", "tokenizer.ggml.seperator_token_id"}
    assert [code for code, _ in tokenizer.warnings] == ["special-token", "special-token"]


SMALL = kind("phi4").but(
    tokenizer__json=dumped(
        {
            "added_tokens": [added(3, "<s>")],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        }
    )
)
PIECES = tuple(Piece(text, 0.0, kind) for text, kind in (("<unk>", TokenType.UNKNOWN), ("a", TokenType.NORMAL)))
SMALL_SPM = kind("llama_spm_model_only").but(tokenizer__model=encode_sentencepiece(SentencePieceModel(PIECES, BPE)))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = (
    ("added_tokens",), ("added_tokens", 0), ("added_tokens", 0, "id"), ("added_tokens", 0, "content"), ("normalizer",),
    ("pre_tokenizer",), ("pre_tokenizer", "type"), ("post_processor",), ("decoder",), ("model",), ("model", "vocab"),
    ("model", "vocab", "a"), ("model", "merges"), ("model", "merges", 0), ("model", "byte_fallback"), ("model", "type"),
)  # fmt: skip


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_any_json_in_any_place_is_read_or_refused(path: tuple[Any, ...], value: Any) -> None:
    raw = SMALL.parsed("tokenizer.json")
    at: Any = raw
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    try:
        read(SMALL.but(tokenizer__json=json.dumps(raw).encode()), pre="gpt-2")
    except QuantkitError as error:
        assert isinstance(error, InputError | UnsupportedError)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ("added_tokens_decoder", "bos_token", "eos_token", "add_bos_token", "chat_template", "add_prefix_space",
         "tokenizer_class", "additional_special_tokens", "extra_special_tokens")
    ),
    JSON_VALUES,
)  # fmt: skip
def test_any_json_in_the_settings_is_read_or_refused(key: str, value: Any) -> None:
    for made in (SMALL, SMALL_SPM):
        try:
            read(made.but(tokenizer_config__json=json.dumps({key: value}).encode()))
        except QuantkitError as error:
            assert isinstance(error, InputError | UnsupportedError)
