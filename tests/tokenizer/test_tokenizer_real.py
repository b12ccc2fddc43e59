"""Published vocabularies, from the reference's models folder: with texts and the ids their own tokenizers give.

The files hold vocabulary and merges. A tokenizer.json is built around them with the sections of the model, read as
that of a checkpoint, written, and asked for the ids in llama.cpp and rebuilt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest
from oracles.ggml import Model
from reference import REFERENCE
from tokenizer_kinds import (
    BYTE_LEVEL,
    LEGACY_SPACES,
    LLAMA_DECODER,
    Kind,
    added,
    bos_template,
    config,
    dumped,
    steps_of,
)
from tokenizers import Tokenizer as Library
from vocabulary_file import write_vocabulary

from quantkit.formats.gguf.reader import read_gguf
from quantkit.metadata import KeyValue
from quantkit.tokenizer.chat_template import look_at_template
from quantkit.tokenizer.check import check_tokenizer, rebuild
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer
from quantkit.tokenizer.vocabulary import TokenType, looks_special

pytestmark = [pytest.mark.slow, pytest.mark.reference]

MODELS = REFERENCE / "models"
SEPARATOR = "\n__ggml_vocab_test__\n"


@dataclass(frozen=True)
class Published:
    """A byte-level vocabulary: the name its section is recognized by, and what its tokenizer.json says besides."""

    section: str
    family: str = "llama"
    architecture: str = "LlamaForCausalLM"
    model_type: str = "llama"
    normalizer: str | None = None
    ignore_merges: bool = False
    bos: bool = False


# deepseek-llm, falcon and the like are no families here, but their vocabularies test the same code.
BYTE_LEVEL_VOCABULARIES = {
    "llama-bpe": Published("llama-bpe", ignore_merges=True, bos=True),
    "qwen2": Published("qwen2", "qwen2", "Qwen2ForCausalLM", "qwen2", normalizer="NFC"),
    "qwen35": Published("qwen35", "qwen2", "Qwen2ForCausalLM", "qwen2", normalizer="NFC"),
    "gpt-2": Published("gpt-2"),
    "mpt": Published("gpt-2", normalizer="NFC"),
    "starcoder": Published("smollm"),
    "refact": Published("smollm"),
    "command-r": Published("smollm", normalizer="NFC", bos=True),
    "deepseek-llm": Published("deepseek-llm", bos=True),
    "deepseek-coder": Published("deepseek-coder", bos=True),
    "falcon": Published("falcon"),
}
# The hash is of ids with the special tokens of the original post-processor, and names are shared between hashes.
SAME_SPLIT = {"mpt": {"mpt", "olmo", "gpt-2"}, "refact": {"refact", "smollm"}, "command-r": {"command-r"}}


@lru_cache(2)  # the largest takes 200 MB
def vocabulary(name: str) -> dict[str, KeyValue]:
    return {entry.key: entry for entry in read_gguf(MODELS / f"ggml-vocab-{name}.gguf").metadata}


def values(name: str, key: str) -> Any:
    return vocabulary(name)[f"tokenizer.ggml.{key}"].value


def expected(name: str) -> list[tuple[str, list[int]]]:
    """Texts and the ids that the original tokenizer gives, without BOS and EOS."""
    texts = (MODELS / f"ggml-vocab-{name}.gguf.inp").read_text().split(SEPARATOR)
    lines = (MODELS / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    ids = [[int(number) for number in line.split()] for line in lines]
    return list(zip(texts, ids[: len(texts)], strict=True))


def byte_level_kind(name: str) -> Kind:
    published = BYTE_LEVEL_VOCABULARIES[name]
    tokens, types = values(name, "tokens"), values(name, "token_type")
    ordinary = {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == TokenType.NORMAL}
    extra = [i for i, kind in enumerate(types) if kind in {TokenType.CONTROL, TokenType.USER_DEFINED}]
    vocab = {**ordinary, **{tokens[i]: i for i in extra if i < len(ordinary)}}
    bos = values(name, "bos_token_id") if published.bos else None
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, tokens[i], **flags(types[i])) for i in extra],
        "normalizer": None if published.normalizer is None else {"type": published.normalizer},
        "pre_tokenizer": steps_of(published.section),
        "post_processor": BYTE_LEVEL if bos is None else bos_template(tokens[bos], bos),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "byte_fallback": False,
            "end_of_word_suffix": "", "fuse_unk": False, "ignore_merges": published.ignore_merges, "vocab": vocab,
            "merges": list(values(name, "merges")),
        },
    }  # fmt: skip
    ids = {key: values(name, f"{key}_token_id") for key in ("bos", "eos")} if name != "falcon" else {}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {f"{key}_token": tokens[index] for key, index in ids.items()}
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config(published.architecture, published.model_type, len(tokens)),
    }
    return Kind(published.family, published.architecture, files)


def flags(token_type: int) -> dict[str, bool]:
    special = token_type == TokenType.CONTROL
    return {"special": special, "normalized": not special}


def read(kind: Kind) -> Tokenizer:
    return read_tokenizer(kind.read_file, kind.config, kind.rules)


# Probes of 2,000 that cannot be compared: patterns that differ in places, an ordinary "</s>" that llama.cpp retypes,
# tokens that no merge makes.
LEFT_OUT = {"deepseek-llm": 49, "qwen2": 3, "qwen35": 3, "gemma": 68}


@pytest.mark.parametrize("name", BYTE_LEVEL_VOCABULARIES)
def test_published_byte_level_vocabularies_come_out_as_published(name: str, tmp_path: Path) -> None:
    kind = byte_level_kind(name)
    tokenizer = read(kind)
    written = {entry.key: entry for entry in tokenizer.metadata}
    for key in ("model", "tokens", "merges"):
        found, wanted = written[f"tokenizer.ggml.{key}"], vocabulary(name)[f"tokenizer.ggml.{key}"]
        assert found.kind == wanted.kind
        assert tuple(found.value) == tuple(wanted.value), key
    types, wanted_types = written["tokenizer.ggml.token_type"].value, values(name, "token_type")
    differing = [values(name, "tokens")[i] for i, (a, b) in enumerate(zip(types, wanted_types, strict=True)) if a != b]
    assert all(map(looks_special, differing))  # some of these files are older than that rule
    assert tokenizer.pre in SAME_SPLIT.get(name, {name})
    assert tokenizer.pre_found_by == "pattern"
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        in_llama_cpp = [(text, model.tokenize(text)) for text, _ in expected(name)]
    assert in_llama_cpp == expected(name)
    rebuilt = rebuild(tokenizer.metadata, add_special=False)
    assert [(text, rebuilt(text)) for text, _ in expected(name)] == expected(name)
    compared = check_tokenizer(tokenizer.metadata, kind.read_file, kind.config)
    assert compared.ok, compared
    assert compared.total >= 2000 - LEFT_OUT.get(name, 0)


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "starcoder", "deepseek-llm", "deepseek-coder", "falcon"])
def test_an_unknown_section_of_a_known_model_is_recognized_by_its_hash(name: str) -> None:
    kind = byte_level_kind(name)
    raw = kind.parsed("tokenizer.json")
    nothing = {"type": "Split", "pattern": {"Regex": "(?!)never"}, "behavior": "Isolated", "invert": False}
    raw["pre_tokenizer"]["pretokenizers"].insert(0, nothing)
    tokenizer = read(kind.but(tokenizer__json=dumped(raw)))
    assert (tokenizer.pre, tokenizer.pre_found_by) == (name, "hash")


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_published_sentencepiece_vocabularies_give_the_published_ids(name: str) -> None:
    rebuilt = rebuild(tuple(vocabulary(name).values()), add_special=False)
    assert [(text, rebuilt(text)) for text, _ in expected(name)] == expected(name)


def llama_2_json() -> Kind:
    """Llama 2's tokenizer.json, made from its scores as transformers makes it: every split of a token is a merge."""
    tokens, scores = values("llama-spm", "tokens"), values("llama-spm", "scores")
    types = values("llama-spm", "token_type")
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = []
    ordinary = [i for i, kind in enumerate(types) if kind == TokenType.NORMAL]
    for index in sorted(ordinary, key=lambda i: (-scores[i], i)):
        text = tokens[index]
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [(left, right) for left, right in pairs if left in vocab and right in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, tokens[i]) for i in range(3)],
        "normalizer": LEGACY_SPACES,
        "pre_tokenizer": None,
        "post_processor": bos_template("<s>", 1),
        "decoder": LLAMA_DECODER,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": vocab, "merges": [f"{left} {right}" for left, right in merges],
        },
    }  # fmt: skip
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped(settings),
        "config.json": config("LlamaForCausalLM", "llama", len(tokens)),
    }
    return Kind("llama", "LlamaForCausalLM", files)


def test_scores_made_from_merges_order_tokens_as_those_of_llama_2(tmp_path: Path) -> None:
    kind = llama_2_json()
    tokenizer = read(kind)
    written = {entry.key: entry.value for entry in tokenizer.metadata}
    types = values("llama-spm", "token_type")
    made, own = written["tokenizer.ggml.scores"], values("llama-spm", "scores")
    assert isinstance(made, tuple)
    ordinary = [i for i, t in enumerate(types) if t == TokenType.NORMAL]
    longer = [i for i in ordinary if len(values("llama-spm", "tokens")[i]) > 1]
    assert len({made[i] for i in longer}) == len(longer)
    assert sorted(longer, key=lambda i: (made[i], -i)) == sorted(longer, key=lambda i: (own[i], -i))
    assert not tokenizer.warnings
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        assert [(text, model.tokenize(text)) for text, _ in expected("llama-spm")] == expected("llama-spm")
    compared = check_tokenizer(tokenizer.metadata, kind.read_file, kind.config)
    assert (compared.ok, compared.total) == (True, 2000), compared


def test_the_constant_score_of_the_reference_splits_otherwise(tmp_path: Path) -> None:
    """Why scores are made: with the reference's -1000 for every token llama.cpp gives other ids for real words."""
    metadata = [
        KeyValue(e.key, e.kind, (-1000.0,) * len(e.value), array=True)  # type: ignore[arg-type]
        if e.key == "tokenizer.ggml.scores"
        else e
        for e in read(llama_2_json()).metadata
    ]
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", metadata), vocab_only=True) as model:
        wrong = [text for text, ids in expected("llama-spm") if model.tokenize(text) != ids]
    assert len(wrong) >= 10


def gemma_json() -> Kind:
    """Gemma's tokenizer.json without its tokenizer.model, around the vocabulary and merges of its fourth version."""
    tokens, types = values("gemma-4", "tokens"), values("gemma-4", "token_type")
    lines = values("gemma-4", "merges")
    cuts = [line.index(" ", 1) for line in lines]
    special = [(i, kind) for i, kind in enumerate(types) if kind in {TokenType.CONTROL, TokenType.USER_DEFINED}]
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, tokens[i], special=kind == TokenType.CONTROL) for i, kind in special],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "post_processor": bos_template("<bos>", 2),
        "decoder": {"type": "Sequence", "decoders": LLAMA_DECODER["decoders"][:3]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "ignore_merges": False, "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [[line[:cut], line[cut + 1 :]] for line, cut in zip(lines, cuts, strict=True)],
        },
    }  # fmt: skip
    files = {
        "tokenizer.json": dumped(raw),
        "tokenizer_config.json": dumped({"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>"}),
        "config.json": config("Gemma3ForCausalLM", "gemma3_text", len(tokens)),
    }
    return Kind("gemma3", "Gemma3ForCausalLM", files)


def test_gemmas_merges_become_scores_that_split_alike(tmp_path: Path) -> None:
    kind = gemma_json()
    tokenizer = read(kind)
    compared = check_tokenizer(tokenizer.metadata, kind.read_file, kind.config)
    assert compared.ok, compared
    assert compared.total >= 2000 - LEFT_OUT["gemma"]
    library = Library.from_buffer(kind.files["tokenizer.json"])
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        found = [model.tokenize(text, add_special=True, parse_special=True) for text in probes()]
    assert found == [library.encode(text).ids for text in probes()]


def gemma4_kind() -> Kind:
    """The same as what it is: all added tokens are special, and those of the whole vocabulary that have names."""
    made = gemma_json()
    raw = made.parsed("tokenizer.json")
    raw["added_tokens"] = [{**token, "special": True} for token in raw["added_tokens"]]
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        **{f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")},
    }
    changed = made.but(tokenizer__json=dumped(raw), tokenizer_config__json=dumped(settings))
    files = {
        **changed.files,
        "config.json": config("Gemma4ForCausalLM", "gemma4_text", len(values("gemma-4", "tokens"))),
    }
    return Kind("gemma4", "Gemma4ForCausalLM", files)


def test_gemma_4_comes_out_as_published(tmp_path: Path) -> None:
    """Every entry but the chat template; ids in llama.cpp are those of the library, whole texts with special tokens."""
    kind = gemma4_kind()
    tokenizer = read(kind)
    written = {entry.key: entry for entry in tokenizer.metadata}
    published = {k: e for k, e in vocabulary("gemma-4").items() if k.startswith("tokenizer.ggml.")}
    assert set(written) == {*published, "tokenizer.ggml.add_sep_token"}  # of a post-processor that is made here
    for key, entry in published.items():
        found, wanted = written[key].value, entry.value
        assert written[key].kind == entry.kind
        assert found == (tuple(wanted) if isinstance(found, tuple) else wanted), key
    compared = check_tokenizer(tokenizer.metadata, kind.read_file, kind.config)
    assert compared.ok, compared
    assert compared.total >= 2000 - LEFT_OUT["gemma"]
    library = Library.from_buffer(kind.files["tokenizer.json"])
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        assert [(text, model.tokenize(text)) for text, _ in expected("gemma-4")] == expected("gemma-4")
        split = [model.tokenize(text, add_special=True, parse_special=True) for text in probes()]
    assert split == [library.encode(text).ids for text in probes()]


def test_published_chat_templates_pass_unchanged_and_without_warnings() -> None:
    templates = sorted((MODELS / "templates").glob("*.jinja"))
    assert len(templates) > 50
    for path in templates:
        kind = byte_level_free(path.read_text())
        found = {e.key: e.value for e in read(kind).metadata}
        assert found["tokenizer.chat_template"] == path.read_text()
        assert not list(look_at_template(path.name, path.read_text())), path.name


@cache
def bundled() -> Kind:
    from tokenizer_kinds import llama_spm

    return llama_spm()


def byte_level_free(template: str) -> Kind:
    settings = {**bundled().parsed("tokenizer_config.json"), "chat_template": template}
    return bundled().but(tokenizer_config__json=json.dumps(settings).encode())
