"""The canonical hash: the same for the same tokenizer however its files are spelled, another for any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizer_kinds import Kind, bos_template, dumped, kind, steps_of

from quantkit.tokenizer.read import read_tokenizer
from quantkit.tokenizer.sentencepiece_model import encode_sentencepiece, parse_sentencepiece


def digest(made: Kind, pre: str | None = None) -> str:
    return read_tokenizer(made.read_file, made.config, made.rules, pre=pre).sha256


def change(base: str, name: str, edit: Callable[[dict[str, Any]], object]) -> Kind:
    made = kind(base)
    raw = made.parsed(name)
    edit(raw)
    return made.but(**{name.replace(".", "__"): dumped(raw)})


def swapped(merges: list[Any]) -> None:
    merges[7], merges[8] = merges[8], merges[7]


def shuffled(value: Any) -> Any:
    """The same JSON with the keys of every object turned around."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("base", ["phi4", "tinyllama_json", "llama_spm", "qwen2"])
def test_order_and_spelling_of_the_files_do_not_matter(base: str) -> None:
    made = kind(base)
    names = [name for name in made.files if name.endswith(".json")]
    turned = {n: json.dumps(shuffled(made.parsed(n)), indent=3, ensure_ascii=True).encode() for n in names}
    assert digest(made.but(**{n.replace(".", "__"): data for n, data in turned.items()})) == digest(made)


def test_merges_as_text_and_as_pairs_are_the_same() -> None:
    joined = change("phi4", "tokenizer.json", lambda raw: raw["model"].update(
        merges=[" ".join(pair) for pair in raw["model"]["merges"]]
    ))  # fmt: skip
    assert digest(joined) == digest(kind("phi4"))


def test_the_hash_does_not_change_between_releases() -> None:
    assert digest(kind("llama_spm")) == "b83b3dc63e52e0a1641ffacf9e53aab79e66b34ddad2d2a5e3b47b719f26acec"


OTHERS: dict[str, Callable[[], Kind]] = {
    "two merges swapped": lambda: change("phi4", "tokenizer.json", lambda raw: swapped(raw["model"]["merges"])),
    "a merge less": lambda: change("phi4", "tokenizer.json", lambda raw: raw["model"]["merges"].pop()),
    "two tokens swapped": lambda: change(
        "phi4", "tokenizer.json", lambda raw: raw["model"]["vocab"].update({"!": 1, '"': 0})
    ),
    "another special token": lambda: change(
        "phi4", "tokenizer.json", lambda raw: raw["added_tokens"][4].update(content="<|other|>")
    ),
    "a token no longer special": lambda: change(
        "qwen2", "tokenizer.json", lambda raw: raw["added_tokens"][4].update(special=True)
    ),
    "spaces taken": lambda: change("phi4", "tokenizer.json", lambda raw: raw["added_tokens"][4].update(rstrip=True)),
    "another pattern": lambda: change(
        "phi4", "tokenizer.json", lambda raw: raw.update(pre_tokenizer=steps_of("qwen2"))
    ),
    "a normalizer": lambda: change("phi4", "tokenizer.json", lambda raw: raw.update(normalizer={"type": "NFC"})),
    "whole words": lambda: change("phi4", "tokenizer.json", lambda raw: raw["model"].update(ignore_merges=True)),
    "a BOS token": lambda: change(
        "phi4", "tokenizer.json", lambda raw: raw.update(post_processor=bos_template("<|endoftext|>", 1500))
    ),
    "another EOS": lambda: change("phi4", "tokenizer_config.json", lambda raw: raw.update(eos_token="<|endoftext|>")),
    "a chat template": lambda: change("phi4", "tokenizer_config.json", lambda raw: raw.update(chat_template="{{ m }}")),
    "more rows": lambda: change("phi4", "config.json", lambda raw: raw.update(vocab_size=raw["vocab_size"] + 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_tokenizer_has_another_hash(name: str) -> None:
    made = OTHERS[name]()
    base = "qwen2" if name == "a token no longer special" else "phi4"
    assert digest(made) != digest(kind(base))


def test_scores_and_the_choice_of_a_pre_tokenizer_count() -> None:
    made = kind("gemma2")
    model = parse_sentencepiece(made.files["tokenizer.model"])
    pieces = list(model.pieces)
    one, two = pieces[700], pieces[701]
    pieces[700], pieces[701] = type(one)(one.text, two.score, one.kind), type(two)(two.text, one.score, two.kind)
    other = encode_sentencepiece(type(model)(tuple(pieces), model.model_type, b"", False, False))
    assert digest(made.but(tokenizer__model=other)) != digest(made)
    assert digest(kind("phi4"), pre="llama-bpe") != digest(kind("phi4"))
