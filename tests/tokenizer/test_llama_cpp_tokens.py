"""What llama.cpp makes of token types at load, asked of llama.cpp itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracles.ggml import ATTR_CONTROL, ATTR_USER_DEFINED, Model
from tokenizer_kinds import Kind, dumped, kind
from vocabulary_file import write_vocabulary

from quantkit.tokenizer.check import check_tokenizer, comparable
from quantkit.tokenizer.llama_cpp_tokens import ENDS, INFILL, found_at_load
from quantkit.tokenizer.own import open_source_tokenizer
from quantkit.tokenizer.read import read_tokenizer
from quantkit.tokenizer.vocabulary import TokenType


def with_ordinary(*texts: str) -> Kind:
    """Qwen's kind of tokenizer with further ordinary tokens that no merge makes, as Qwen's own has `</s>`."""
    made = kind("qwen2")
    raw = made.parsed("tokenizer.json")
    rows = made.config["vocab_size"]
    moved = len(raw["model"]["vocab"])
    raw["model"]["vocab"] |= {text: moved + number for number, text in enumerate(texts)}
    for token in raw["added_tokens"]:
        token["id"] += len(texts)
    settings = made.parsed("tokenizer_config.json")
    settings["added_tokens_decoder"] = {
        str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in raw["added_tokens"]
    }
    config = {**made.config, "vocab_size": rows + len(texts), "bos_token_id": None, "eos_token_id": None}
    return made.but(tokenizer__json=dumped(raw), tokenizer_config__json=dumped(settings), config__json=dumped(config))


def test_every_end_is_looked_for_by_llama_cpp(tmp_path: Path) -> None:
    ends = sorted(ENDS - {"<|im_end|>", "<|endoftext|>", "<|tool_response>"})
    made = with_ordinary(*ends)
    tokenizer = read_tokenizer(made.read_file, made.config, made.rules)
    tokens = next(e.value for e in tokenizer.metadata if e.key == "tokenizer.ggml.tokens")
    assert isinstance(tokens, tuple)
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        attributes = {text: model.token(tokens.index(text)).attr for text in ends}
    assert {text for text, found in attributes.items() if not found & (ATTR_CONTROL | ATTR_USER_DEFINED)} == set()


@pytest.mark.parametrize("text", sorted(INFILL))
def test_every_infill_text_becomes_a_control_token_in_llama_cpp(text: str, tmp_path: Path) -> None:
    made = with_ordinary(text)
    tokenizer = read_tokenizer(made.read_file, made.config, made.rules)
    tokens = next(e.value for e in tokenizer.metadata if e.key == "tokenizer.ggml.tokens")
    assert isinstance(tokens, tuple)
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        assert model.token(tokens.index(text)).attr & ATTR_CONTROL


def test_probes_with_such_a_token_are_left_out_and_the_rest_agrees(tmp_path: Path) -> None:
    made = with_ordinary("</s>")
    tokenizer = read_tokenizer(made.read_file, made.config, made.rules)
    chosen = comparable(tokenizer.metadata, made.read_file, made.config)
    assert 0 < 2000 - len(chosen.texts) <= sum(count for _, count in chosen.left_out)
    assert any('"</s>"' in why for why, _ in chosen.left_out)
    encode = open_source_tokenizer(made.read_file, made.config).encoder()
    with Model(write_vocabulary(tmp_path / "vocabulary.gguf", tokenizer.metadata), vocab_only=True) as model:
        found = [model.tokenize(text, add_special=True, parse_special=True) for text in chosen.texts]
        assert model.tokenize("a</s>b", parse_special=True) != encode("a</s>b")
    assert found == [encode(text) for text in chosen.texts]
    compared = check_tokenizer(tokenizer.metadata, made.read_file, made.config)
    assert compared.ok, compared
    assert compared.total == len(chosen.texts)


def test_an_ordinary_end_stays_where_llama_cpp_leaves_it() -> None:
    normal = TokenType.NORMAL
    assert found_at_load(["a", "</s>"], [normal, normal]) == {"</s>": 1}
    assert found_at_load(["a", "</s>", "<|tool_response>"], [normal, normal, TokenType.CONTROL]) == {}
    assert found_at_load(["</s>"], [TokenType.CONTROL]) == {}
