"""WordPiece and Unigram: 2,000 probes and words of published vocabularies, in llama.cpp and in the source's library."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from oracles.ggml import Model
from real_folders import REALITY, needs_reality
from reference import REFERENCE
from vocabulary_file import write_vocabulary

from quantkit.errors import InputError, QuantkitError, UnsupportedError
from quantkit.families.rows import TokenizerRules
from quantkit.formats.gguf.reader import read_gguf
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import check_tokenizer, comparable
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.read import Tokenizer, read_tokenizer

ENCODER = TokenizerRules(pieces=True, counted=True)
MINILM = REALITY / "all-minilm-l6-v2"
XLM = REFERENCE / "models" / "ggml-vocab-nomic-bert-moe.gguf"
CONFIG = {"model_type": "bert", "vocab_size": 12}
Files = Mapping[str, bytes]


def read(files: Files, config: Mapping[str, Any]) -> Tokenizer:
    return read_tokenizer(files.get, config, ENCODER)


def agree(files: Files, config: Mapping[str, Any], folder: Path, least: int) -> Tokenizer:
    """What was read; at least `least` texts, and all words, get the source's ids in llama.cpp and rebuilt from it."""
    tokenizer = read(files, config)
    source, chosen = open_source_tokenizer(files.get, config), comparable(tokenizer.metadata, files.get, config)
    texts = (*chosen.texts, *chosen.words[:2000])
    assert len(chosen.texts) >= least
    with Model(write_vocabulary(folder / "v.gguf", tokenizer.metadata, "bert"), vocab_only=True) as loaded:
        for text, ids in zip(texts, source.encode(texts), strict=True):
            found = loaded.tokenize(text, add_special=True, parse_special=True)
            assert found == [*source.first, *ids, *source.last], text
    compared = check_tokenizer(tokenizer.metadata, files.get, config)
    assert compared.ok, (compared.difference, compared.problems)
    assert compared.total == len(chosen.texts)
    return tokenizer


@needs_reality
@pytest.mark.slow
@pytest.mark.parametrize("names", [("tokenizer.json", "tokenizer_config.json"), ("vocab.txt", "tokenizer_config.json")])
def test_bert_splits_as_published(names: tuple[str, ...], tmp_path: Path) -> None:
    """Text that llama.cpp normalizes otherwise, such as Korean, is left out: 314 of some 2,000."""
    files = {name: (MINILM / name).read_bytes() for name in names}
    agree(files, json.loads((MINILM / "config.json").read_text()), tmp_path, 1600)


@pytest.mark.slow
@pytest.mark.reference
def test_xlm_roberta_splits_as_published(tmp_path: Path) -> None:
    """The vocabulary of 250,000 pieces and its map of characters; written, they are those of the published file."""
    said = {entry.key: entry for entry in read_gguf(XLM).metadata}
    files = xlm_files(said)
    config = {"model_type": "xlm-roberta", "vocab_size": 250048, "type_vocab_size": 1}
    written = {entry.key: entry for entry in agree(files, config, tmp_path, 1850).metadata}
    for key in ("scores", "token_type", "precompiled_charsmap", "remove_extra_whitespaces", "add_space_prefix"):
        name = f"tokenizer.ggml.{key}"
        assert list(written[name].items()) == list(said[name].items())


def xlm_files(said: Mapping[str, KeyValue]) -> Files:
    texts, scores = said["tokenizer.ggml.tokens"].items(), said["tokenizer.ggml.scores"].items()
    charsmap = base64.b64encode(bytes(said["tokenizer.ggml.precompiled_charsmap"].items())).decode()  # type: ignore[arg-type]
    raw = unigram(
        [[text, score] for text, score in zip(texts, scores, strict=True)][:250002], charsmap=charsmap, unk_id=3
    )
    raw["added_tokens"] = [added(index, str(texts[index])) for index in (0, 1, 2, 3, 250001)]
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
    settings = {f"{kind}_token": text for kind, text in names.items()}
    return {"tokenizer.json": json.dumps(raw).encode(), "tokenizer_config.json": json.dumps(settings).encode()}


def added(index: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def unigram(vocab: list[list[Any]], charsmap: str | None = None, **model: Any) -> dict[str, Any]:
    first, last = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("<s>", "</s>"))
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    ids = {text: index for index, (text, _) in enumerate(vocab)}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "added_tokens": [added(ids[text], text) for text in ("<s>", "</s>", "<unk>") if text in ids],
        "normalizer": None if charsmap is None else {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, a, last], "pair": [first, a, last, last, b, last],
            "special_tokens": {t: {"id": t, "ids": [ids.get(t, 0)], "tokens": [t]} for t in ("<s>", "</s>")},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False, **model},
    }  # fmt: skip


SMALL = [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.0], ["▁b", -2.0], ["b", -3.0]]


NORMALIZER = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
    "lowercase": False,
}  # fmt: skip
MORE = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


@cache
def wordpiece() -> dict[str, Any]:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "walk", "##ing", "##s", "a")
    first, last = ({"SpecialToken": {"id": text, "type_id": 0}} for text in words[2:4])
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [added(index, text) for index, text in enumerate(words[:5])],
        "normalizer": {**NORMALIZER, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, text, last], "pair": [first, text, last, text, last],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("[CLS]", 2), ("[SEP]", 3))},
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            **MORE,
            "vocab": {text: i for i, text in enumerate(words)},
        },
    }  # fmt: skip


def changed(raw: dict[str, Any], **parts: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(raw))
    for name, value in parts.items():
        place, _, key = name.rpartition("__")
        (made[place] if place else made)[key] = value
    return dict(made)


def values(raw: dict[str, Any], config: Mapping[str, Any] = CONFIG) -> dict[str, Any]:
    found = read({"tokenizer.json": json.dumps(raw).encode()}, config).metadata
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in found}


def test_a_wordpiece_vocabulary_has_phantom_spaces_and_all_its_special_tokens() -> None:
    found = values(wordpiece())
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁walk", "ing", "s", "▁a", "▁[PAD9]", "▁[PAD10]", "▁[PAD11]")
    assert found["tokens"] == words
    assert found["token_type"] == (3, 3, 3, 3, 3, 1, 1, 1, 1, 5, 5, 5)
    ids = ("bos", "seperator", "unknown", "padding", "mask")
    assert [found[f"{kind}_token_id"] for kind in ids] == [2, 3, 1, 0, 4]
    assert (found["model"], found["token_type_count"], found["normalizer.lowercase"]) == ("bert", 2, True)


@pytest.mark.parametrize("normalizer", [None, {**NORMALIZER, "strip_accents": True}])
def test_text_keeps_its_case_where_the_source_keeps_it(normalizer: dict[str, Any] | None) -> None:
    """llama.cpp puts text into lower case unless told."""
    found = values(changed(wordpiece(), normalizer=normalizer))
    assert found["normalizer.lowercase"] is False
    assert found.get("normalizer.strip_accents") == (None if normalizer is None else True)


def test_an_unknown_token_is_found_where_nothing_names_it() -> None:
    found = values(unigram(SMALL), {"model_type": "xlm-roberta", "vocab_size": 8, "type_vocab_size": 1})
    assert (found["unknown_token_id"], found["token_type"]) == (2, (3, 3, 2, 1, 1, 1, 5, 5))
    assert (found["add_bos_token"], found["remove_extra_whitespaces"]) == (True, True)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (changed(wordpiece(), model__continuing_subword_prefix="@@"), UnsupportedError),
        (changed(wordpiece(), pre_tokenizer={"type": "Whitespace"}), UnsupportedError),
        (changed(wordpiece(), pre_tokenizer=None), UnsupportedError),
        (changed(wordpiece(), model__unk_token="none"), InputError),
        (changed(wordpiece(), model__vocab=[]), InputError),
        (changed(wordpiece(), model__vocab={"[UNK]": 0, "a": 0}), InputError),
        (changed(wordpiece(), normalizer={"type": "Sequence", "normalizers": 1}), InputError),
        (unigram(SMALL, unk_id=None), UnsupportedError),
        (unigram(SMALL, unk_id=99), UnsupportedError),
        (unigram([*SMALL, ["▁a", -1.0]]), InputError),
        (unigram([*SMALL, ["c", None]]), InputError),
        (unigram([*SMALL, ["c", True]]), InputError),
        (changed(unigram(SMALL), model__vocab=[*SMALL, "c"]), InputError),
        (unigram(SMALL, charsmap="no base64!"), InputError),
        (unigram(SMALL, charsmap=base64.b64encode(b"\xff\xff\xff\xff1234").decode()), InputError),
    ],
)
def test_what_cannot_be_written_is_refused(raw: dict[str, Any], kind: type[QuantkitError]) -> None:
    with pytest.raises(kind) as seen:
        values(raw)
    assert seen.value.hint


def test_a_wrong_entry_is_noticed() -> None:
    files = {"tokenizer.json": json.dumps(wordpiece()).encode()}
    tokenizer = read(files, CONFIG)
    assert check_tokenizer(tokenizer.metadata, files.get, CONFIG).ok

    def but(key: str, value: Any) -> tuple[KeyValue, ...]:
        return tuple(KeyValue(e.key, e.kind, value, e.array) if e.key.endswith(key) else e for e in tokenizer.metadata)

    texts = next(entry.items() for entry in tokenizer.metadata if entry.key.endswith("ggml.tokens"))
    tokens = tuple(str(text).replace("▁walk", "walk") for text in texts)
    for wrong in (but("ggml.tokens", tokens), but("seperator_token_id", 2), but("lowercase", False)):
        assert not check_tokenizer(wrong, files.get, CONFIG).ok
