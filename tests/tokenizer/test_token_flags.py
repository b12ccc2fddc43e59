"""Flags of added tokens, spaces beside them, BOS and names: what llama.cpp does otherwise is said, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles.ggml import Model
from tokenizer_kinds import KINDS, LEGACY_SPACES, Kind, added, dumped, kind
from tokenizers import Tokenizer as Library

from quantkit.errors import UnsupportedError
from quantkit.families.assumptions import name_warnings
from quantkit.formats.gguf.file import encode_header
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import rebuild
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer


def read(made: Kind) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules)


def changed(base: str | Kind, change: Callable[[dict[str, Any]], object], name: str = "tokenizer.json") -> Kind:
    made = kind(base) if isinstance(base, str) else base
    raw = made.parsed(name)
    change(raw)
    return made.but(**{name.replace(".", "__"): dumped(raw)})


def with_token(base: str, **flags: bool) -> Kind:
    """One more added token, in the row that the embedding has for it."""

    def add(raw: dict[str, Any]) -> None:
        index = len({*raw["model"]["vocab"], *(token["content"] for token in raw["added_tokens"])})
        raw["added_tokens"].append(added(index, "<tool>", **flags))

    return changed(changed(base, add), lambda raw: raw.update(vocab_size=raw["vocab_size"] + 64), "config.json")


def messages(tokenizer: Tokenizer, code: str = "tokenizer-added") -> list[str]:
    return [message for found, message in tokenizer.warnings if found == code]


def value(tokenizer: Tokenizer, key: str) -> Any:
    return {entry.key: entry.value for entry in tokenizer.metadata}.get(f"tokenizer.ggml.{key}")


FLAGS = {"lstrip": "drops spaces", "rstrip": "drops spaces", "single_word": "where a word ends"}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("base", ["tinyllama_json", "smollm", "llama_spm"])
def test_flags_that_change_ids_are_reported(base: str, flag: str) -> None:
    [message] = messages(read(with_token(base, **{flag: True})))
    assert message.startswith('"<tool>": the source')
    assert FLAGS[flag] in message


@pytest.mark.parametrize("base", ["tinyllama_json", "smollm", "llama_spm", "llama_json_v5"])
def test_normalized_tokens_are_reported_where_it_changes_ids(base: str) -> None:
    """By the library itself: are the ids of text with the token other ones than without the flag?"""
    made = with_token(base, normalized=True)
    if base == "llama_spm":
        made = changed(made, lambda raw: raw.update(normalizer=LEGACY_SPACES, pre_tokenizer=None))
    plain = changed(made, lambda raw: raw["added_tokens"][-1].update(normalized=False))
    libraries = [Library.from_str(each.files["tokenizer.json"].decode()) for each in (made, plain)]
    differ = any(libraries[0].encode(text).ids != libraries[1].encode(text).ids for text in ("a<tool>b", "<tool>[a"))
    assert differ == (base in {"tinyllama_json", "llama_spm"})
    assert any("(normalized)" in message for message in messages(read(made))) == differ
    assert not messages(read(plain))


def test_flags_of_the_settings_count_beside_a_tokenizer_model() -> None:
    """Phi-3: flags in added_tokens_decoder, a tokenizer.model and no tokenizer.json."""
    made = kind("phi3").but(tokenizer__json=None)

    def strip(raw: dict[str, Any]) -> None:
        for index in ("2048", "2049", "2051"):
            raw["added_tokens_decoder"][index]["rstrip"] = True

    [message] = messages(read(changed(made, strip, "tokenizer_config.json")))
    assert message.startswith('"<|endoftext|>" and 2 more: the source drops spaces beside this token')
    assert not messages(read(made))


def test_first_space_rules_beside_a_tokenizer_model_are_reported() -> None:
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    made = changed("llama_spm", lambda raw: raw.update(normalizer=None, pre_tokenizer=first))
    assert any("first text only" in message for message in messages(read(made), "tokenizer-space-prefix"))
    always = changed(made, lambda raw: raw["pre_tokenizer"].update(prepend_scheme="always"))
    assert not messages(read(always), "tokenizer-space-prefix")


@pytest.mark.parametrize(("base", "said"), [("llama_spm", True), ("gemma2", False)])
def test_without_a_tokenizer_json_legacy_is_the_rule(base: str, said: bool) -> None:
    """transformers' LlamaTokenizer; Gemma puts no space anywhere."""
    made = kind(base).but(tokenizer__json=None)
    new = changed(made, lambda raw: raw.update(legacy=False), "tokenizer_config.json")
    assert bool(messages(read(new), "tokenizer-space-prefix")) == said
    old = changed(made, lambda raw: raw.update(legacy=True), "tokenizer_config.json")
    assert not messages(read(old), "tokenizer-space-prefix")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_tokens_without_flags_give_no_warning(name: str) -> None:
    assert not messages(read(kind(name)))


# What comes before and after a text

NO_BOS: dict[str, Any] = {
    "none": None,
    "the text alone": {
        "type": "TemplateProcessing", "special_tokens": {}, "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    },
    "EOS alone": {
        "type": "TemplateProcessing", "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NO_BOS)
@pytest.mark.parametrize("base", ["tinyllama_json", "mistral_json"])
def test_a_bos_that_the_source_does_not_add_is_not_added(base: str, name: str) -> None:
    made = changed(base, lambda raw: raw.update(post_processor=NO_BOS[name]))
    made = changed(made, lambda raw: [raw.pop(key, None) for key in ("add_bos_token", "add_eos_token")],
                   "tokenizer_config.json")  # fmt: skip
    tokenizer = read(made)
    assert value(tokenizer, "add_bos_token") is False
    library, ours = Library.from_str(made.files["tokenizer.json"].decode()), rebuild(tokenizer.metadata)
    assert ours("some text") == library.encode("some text").ids
    assert value(read(kind(base)), "add_bos_token") is True


# Spaces

MISTRAL = {
    "type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": "\\A▁"}, "content": "▁▁"},
    ]
}  # fmt: skip
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
SPELLED: dict[str, tuple[Any, Any]] = {
    "Mistral of transformers 5": (MISTRAL, {"type": "Sequence", "pretokenizers": [METASPACE]}),
    "a pattern for the start": (
        {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"Regex": r"\A"}, "content": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]}, None,
    ),
    "a pattern for spaces": (
        {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"Regex": " "}, "content": "▁"},
        ]}, None,
    ),
    "spaces one by one": (
        {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": " "}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLED)
def test_normalizers_are_judged_by_what_they_do(name: str) -> None:
    normalizer, pre_tokenizer = SPELLED[name]
    made = changed("tinyllama_json", lambda raw: raw.update(normalizer=normalizer, pre_tokenizer=pre_tokenizer))
    tokenizer = read(made)
    library, ours = Library.from_str(made.files["tokenizer.json"].decode()), rebuild(tokenizer.metadata)
    texts = [text for text in ("a", " a", "  a b ", "▁a", *probes()[:200]) if "\n" not in text and "<" not in text]
    assert [text for text in texts if ours(text) != library.encode(text).ids] == []
    assert not messages(tokenizer, "tokenizer-space-prefix")


def test_no_space_first_is_found_by_effect() -> None:
    spaces = {"type": "Replace", "pattern": {"Regex": " "}, "content": "▁"}
    made = changed("tinyllama_json", lambda raw: raw.update(normalizer=spaces))
    assert value(read(made), "add_space_prefix") is False


WRONG = {
    "words change": {"type": "Sequence", "normalizers": [LEGACY_SPACES, {"type": "Lowercase"}]},
    "runs of spaces become one": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"}, {"type": "Prepend", "prepend": "▁"}]},
    "every line begins with a space": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": "^"}, "content": "▁"}, LEGACY_SPACES["normalizers"][1]]},
    "a pattern that is none": {"type": "Replace", "pattern": {"Regex": "("}, "content": "▁"},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_llama_cpp_cannot_do_is_still_refused(name: str) -> None:
    made = changed("tinyllama_json", lambda raw: raw.update(normalizer=WRONG[name]))
    with pytest.raises(UnsupportedError, match="SentencePiece cannot do"):
        read(made)


# Names


@pytest.mark.parametrize(
    ("name", "base", "architecture", "why"),
    [
        ("My Phi3 Llama", "llama3", "llama", "cannot load the file, which lacks </s>, <unk>, <s>, <|endoftext|>"),
        ("tiny-PHI-3-merge", "smollm", "llama", "which lacks </s>, <unk>, <s>;"),
        ("Phi3 mini", "phi3", "phi3", ""),
        ("phi3 of another family", "phi3", "llama", "drops the spaces after special tokens"),
        ("Phi 3", "llama3", "llama", ""),
    ],
)
def test_what_llama_cpp_derives_from_the_name(
    name: str, base: str, architecture: str, why: str, tmp_path: Path
) -> None:
    metadata = (KeyValue("general.name", "string", name), *read(kind(base)).metadata)
    warnings = name_warnings(architecture, metadata)
    assert [why in message for _, message in warnings] == ([True] if why else [])
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(encode_header([KeyValue("general.architecture", "string", "llama"), *metadata], []).data)
    if "cannot load" in why or "lacks" in why:
        with pytest.raises(RuntimeError):
            Model(path, vocab_only=True)
    else:
        Model(path, vocab_only=True).close()
