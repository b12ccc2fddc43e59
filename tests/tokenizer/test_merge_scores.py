"""Scores made from merges: SentencePiece's merging by score must then split as BPE's merging by rank does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.ggml import Model
from tokenizer_kinds import LEGACY_SPACES, LLAMA_DECODER, Kind, added, config, dumped, kind, tinyllama_json
from tokenizers import Tokenizer as Library
from vocabulary_file import write_vocabulary

from quantkit.families.known import family_named
from quantkit.tokenizer.check import rebuild
from quantkit.tokenizer.files import parse_tokenizer_json
from quantkit.tokenizer.read import read_tokenizer
from quantkit.tokenizer.spm import merge_scores

LETTERS = "abc"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def values(made: Kind) -> dict[str, Any]:
    metadata = read_tokenizer(made.read_file, made.config, made.rules).metadata
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in metadata}


def test_the_scores_of_the_sentencepiece_model_come_back() -> None:
    """The bundled tokenizer.json was made from the bundled tokenizer.model."""
    made, original = values(tinyllama_json()), values(kind("llama_spm"))
    ordinary = [index for index, kind_ in enumerate(original["token_type"]) if kind_ == 1]
    assert len(ordinary) > 1700
    assert [made["scores"][i] for i in ordinary] == [original["scores"][i] for i in ordinary]


def test_what_no_merge_makes_comes_after_what_merges_make() -> None:
    made = values(kind("mistral_json"))
    merged = {a + b for a, b in kind("mistral_json").parsed("tokenizer.json")["model"]["merges"]}
    scores = dict(zip(made["tokens"], made["scores"], strict=True))
    worst_merged = min(scores[token] for token in merged)
    assert max(score for token, score in scores.items() if token not in merged) < worst_merged
    assert len({scores[token] for token in merged}) == len(merged)


def trained(words: list[str], size: int) -> dict[str, Any]:
    """A byte-fallback BPE trained on `words`: as consistent as every trained one."""
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Library(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", *BYTES], show_progress=False, initial_alphabet=["▁", *LETTERS]
    )
    tokenizer.train_from_iterator([f"▁{word}" for word in words], trainer)
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    raw |= {"normalizer": LEGACY_SPACES, "decoder": LLAMA_DECODER, "added_tokens": [added(0, "<unk>")]}
    return raw


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=3, max_size=25),
    st.lists(st.text(LETTERS + " ", max_size=30), min_size=1, max_size=10),
)
def test_any_trained_bpe_is_split_alike_by_its_scores(words: list[str], texts: list[str]) -> None:
    raw = trained(words, 300)
    made = Kind("llama", "LlamaForCausalLM", {
        "tokenizer.json": dumped(raw), "config.json": config("LlamaForCausalLM", "llama", len(raw["model"]["vocab"])),
    })  # fmt: skip
    metadata = read_tokenizer(made.read_file, made.config, made.rules).metadata
    by_score = rebuild(metadata, add_special=False)
    by_rank = Library.from_str(json.dumps(raw))
    for text in (*words, *texts):
        assert by_score(text) == by_rank.encode(text, add_special_tokens=False).ids


def test_llama_cpp_splits_by_these_scores_too(tmp_path: Path) -> None:
    words = ["abcabc", "cab", "bca", "abc", "aabb", "cc", "bcbc", "abab", "acb", "ccab"] * 3
    raw = trained(words, 320)
    made = Kind("llama", "LlamaForCausalLM", {
        "tokenizer.json": dumped(raw), "config.json": config("LlamaForCausalLM", "llama", len(raw["model"]["vocab"])),
    })  # fmt: skip
    metadata = read_tokenizer(made.read_file, made.config, made.rules).metadata
    by_rank = Library.from_str(json.dumps(raw))
    texts = [a + b + c for a in words[:10] for b in ("", " ", "abc", "cb") for c in words[:10]]
    with Model(write_vocabulary(tmp_path / "v.gguf", metadata), vocab_only=True) as model:
        assert [t for t in texts if model.tokenize(t) != by_rank.encode(t, add_special_tokens=False).ids] == []


def test_tokens_that_no_merge_makes_are_reported() -> None:
    raw = kind("mistral_json").parsed("tokenizer.json")
    dropped = raw["model"]["merges"].pop()
    made = kind("mistral_json").but(tokenizer__json=dumped(raw))
    tokenizer = read_tokenizer(made.read_file, made.config, family_named("llama").tokens)
    [(code, message)] = tokenizer.warnings
    assert code == "tokenizer-merges"
    assert "1 token of tokenizer.json is made by no merge" in message
    scores, unmade = merge_scores(parse_tokenizer_json(raw), {"<unk>", "<s>", "</s>"})
    assert unmade == 1
    assert scores["".join(dropped)] < -len(raw["model"]["merges"])
