"""One thing wrong in a sound file, of every kind of tokenizer: the check fails and says which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import pytest
from tokenizer_kinds import KINDS, Kind, added, dumped, kind

from quantkit.families.known import family_named
from quantkit.metadata import KeyValue
from quantkit.tokenizer.check import Comparison, check_tokenizer, find_problems
from quantkit.tokenizer.own import SourceTokenizer, open_source_tokenizer
from quantkit.tokenizer.pre_table import LLAMA_CPP
from quantkit.tokenizer.read import read_tokenizer
from quantkit.tokenizer.rebuilt import read_artifact

GGML = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
Entries = dict[str, KeyValue]
SPLITS = {"qwen2": "gpt-2", "smollm": "gpt-2", "llama-bpe": "qwen2", "gpt-4o": "qwen2", "tekken": "llama-bpe"}


@cache
def chatting(name: str) -> Kind:
    """A kind with a chat template, so that every kind has one to lose."""
    made = kind(name)
    if "tokenizer_config.json" not in made.files:
        return made
    return made.but(tokenizer_config__json=dumped({**made.parsed("tokenizer_config.json"), "chat_template": "{{ 1 }}"}))


@cache
def sound(name: str) -> tuple[KeyValue, ...]:
    made = chatting(name)
    return read_tokenizer(made.read_file, made.config, made.rules).metadata


def checked(name: str, entries: Entries) -> Comparison:
    made = chatting(name)
    return check_tokenizer(list(entries.values()), made.read_file, made.config)


@lru_cache(1)
def opened(name: str) -> SourceTokenizer:
    made = chatting(name)
    return open_source_tokenizer(made.read_file, made.config)


def said_of(name: str, entries: Entries, *, encoded: bool) -> str:
    """What the check says is wrong; without encoding where entries are enough, for speed."""
    if not encoded:
        return " ".join(find_problems(opened(name), read_artifact(list(entries.values()))))
    found = checked(name, entries)
    assert found.passed < found.total or found.words_passed < found.words
    return found.difference


def with_item(entries: Entries, key: str, index: int, item: Any) -> Entries:
    old = entries[GGML + key]
    assert isinstance(old.value, tuple)
    value = (*old.value[:index], item, *old.value[index + 1 :])
    return {**entries, old.key: KeyValue(old.key, old.kind, value, old.array)}


def with_value(entries: Entries, key: str, kind: str, value: Any) -> Entries:
    return {**entries, key: KeyValue(key, kind, value)}


def special(entries: Entries) -> int:
    """The last token that is control or user-defined: an added one."""
    types = entries[GGML + "token_type"].value
    assert isinstance(types, tuple)
    return max(i for i, kind in enumerate(types) if kind in {3, 4})


def swapped(items: Sequence[Any], first: int, second: int) -> tuple[Any, ...]:
    listed = list(items)
    listed[first], listed[second] = listed[second], listed[first]
    return tuple(listed)


def other_pre(entries: Entries) -> Entries | None:
    name = str(entries[GGML + "pre"].value)
    other = next((new for old, new in SPLITS.items() if LLAMA_CPP.get(name) == LLAMA_CPP[old]), "gpt-2")
    if entries[GGML + "model"].value != "gpt2":
        return None
    return with_value(entries, GGML + "pre", "string", "qwen2" if name == "dbrx" else other)


def dropped_token(entries: Entries) -> Entries:
    index = special(entries)
    return with_item(with_item(entries, "tokens", index, f"[PAD{index}]"), "token_type", index, 5)


def renamed_token(entries: Entries) -> Entries:
    return with_item(entries, "tokens", special(entries), "<other>")


def ordinary_token(entries: Entries) -> Entries:
    return with_item(entries, "token_type", special(entries), 1)


def swapped_merges(entries: Entries) -> Entries | None:
    old = entries.get(GGML + "merges")
    if old is None:
        return None
    assert isinstance(old.value, tuple)
    value = swapped(old.value, 0, len(old.value) // 3)
    return {**entries, old.key: KeyValue(old.key, old.kind, value, old.array)}


def swapped_scores(entries: Entries) -> Entries | None:
    old = entries.get(GGML + "scores")
    if old is None:
        return None
    assert isinstance(old.value, tuple)
    by_score = sorted(range(len(old.value)), key=lambda i: -old.value[i])  # type: ignore[index]
    ordinary = [i for i in by_score if entries[GGML + "token_type"].value[i] == 1]  # type: ignore[index]
    value = swapped(old.value, ordinary[0], ordinary[len(ordinary) // 3])
    return {**entries, old.key: KeyValue(old.key, old.kind, value, old.array)}


def swapped_tokens(entries: Entries) -> Entries:
    types = entries[GGML + "token_type"].value
    assert isinstance(types, tuple)
    ordinary = [i for i, kind in enumerate(types) if kind == 1]
    old = entries[GGML + "tokens"]
    assert isinstance(old.value, tuple)
    value = swapped(old.value, ordinary[300], ordinary[301])
    return {**entries, old.key: KeyValue(old.key, old.kind, value, old.array)}


def flipped_bos(entries: Entries) -> Entries:
    spm = entries[GGML + "model"].value == "llama"
    pre = LLAMA_CPP.get(str(entries[GGML + "pre"].value))
    default = spm or (pre is not None and pre.adds_bos)
    now = entries[GGML + "add_bos_token"].value if GGML + "add_bos_token" in entries else default
    return with_value(entries, GGML + "add_bos_token", "bool", not now)


def added_eos(entries: Entries) -> Entries:
    return with_value(entries, GGML + "add_eos_token", "bool", True)


def other_eos(entries: Entries) -> Entries | None:
    old = entries.get(GGML + "eos_token_id")
    if old is None or not isinstance(old.value, int):
        return None
    return with_value(entries, old.key, "u32", old.value + 1)


def other_template(entries: Entries) -> Entries | None:
    return with_value(entries, TEMPLATE, "string", "{{ 2 }}") if TEMPLATE in entries else None


def no_template(entries: Entries) -> Entries | None:
    return {k: v for k, v in entries.items() if k != TEMPLATE} if TEMPLATE in entries else None


def other_prefix(entries: Entries) -> Entries | None:
    if entries[GGML + "model"].value != "llama":
        return None
    now = entries[GGML + "add_space_prefix"].value if GGML + "add_space_prefix" in entries else True
    return with_value(entries, GGML + "add_space_prefix", "bool", not now)


@dataclass(frozen=True)
class Mutation:
    change: Callable[[Entries], Entries | None]
    word: str
    encoded: bool = False


MUTATIONS = {
    "another pre-tokenizer": Mutation(other_pre, "pre-tokenizer", encoded=True),
    "a token dropped": Mutation(dropped_token, "[PAD"),
    "a token renamed": Mutation(renamed_token, "<other>"),
    "a special token made ordinary": Mutation(ordinary_token, "is normal in the file"),
    "two merges swapped": Mutation(swapped_merges, "the source has", encoded=True),
    "two scores swapped": Mutation(swapped_scores, "the source has", encoded=True),
    "two tokens swapped": Mutation(swapped_tokens, "the source has"),
    "BOS turned around": Mutation(flipped_bos, "add_bos_token"),
    "an EOS too much": Mutation(added_eos, "add_eos_token"),
    "another EOS": Mutation(other_eos, "eos_token_id"),
    "another template": Mutation(other_template, "chat template"),
    "no template": Mutation(no_template, "chat template"),
    "another space prefix": Mutation(other_prefix, "the source has", encoded=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_mutation_of_a_sound_file_is_found_and_named(name: str) -> None:
    entries = {entry.key: entry for entry in sound(name)}
    found = checked(name, entries)
    assert found.ok, found
    applied = 0
    for what, mutation in MUTATIONS.items():
        changed = mutation.change(entries)
        if changed is None or (name == "phi4_mini" and mutation.change is swapped_merges):
            continue
        applied += 1
        said = said_of(name, changed, encoded=mutation.encoded)
        assert mutation.word in said, (what, said)
    assert applied >= 8


@pytest.mark.parametrize(
    "place", ["tokenizer.json", "added_tokens_decoder", "added_tokens.json", "special_tokens_map.json"]
)
def test_a_token_that_one_file_lists_must_be_in_the_artifact(place: str) -> None:
    """The file was made before the token was listed: nothing in the file itself says that it lacks one."""
    made = kind("phi4")
    settings, raw = made.parsed("tokenizer_config.json"), made.parsed("tokenizer.json")
    index = max(token["id"] for token in raw["added_tokens"]) + 1
    metadata = read_tokenizer(made.read_file, made.config, made.rules).metadata
    late = "<late>"
    changes: dict[str, bytes] = {
        "tokenizer.json": dumped({**raw, "added_tokens": [*raw["added_tokens"], added(index, late)]}),
        "added_tokens_decoder": dumped(
            {**settings, "added_tokens_decoder": {str(index): {"content": late, "special": True}}}
        ),
        "added_tokens.json": dumped({late: index}),
        "special_tokens_map.json": dumped({"additional_special_tokens": [late]}),
    }
    file = "tokenizer_config.json" if place == "added_tokens_decoder" else place
    made = made.but(**{file.replace(".", "__"): changes[place]})
    found = check_tokenizer(metadata, made.read_file, made.config)
    assert not found.ok
    assert any(late in problem and "[PAD" in problem for problem in found.problems), found.problems


def test_a_control_token_where_the_source_has_a_visible_one_is_named() -> None:
    """`<tool_call>` is no special token: as a control token llama.cpp would not print it."""
    made = kind("qwen2")
    entries = {e.key: e for e in read_tokenizer(made.read_file, made.config, family_named("qwen2").tokens).metadata}
    tokens = entries[GGML + "tokens"].value
    assert isinstance(tokens, tuple)
    changed = with_item(entries, "token_type", tokens.index("<tool_call>"), 3)
    found = check_tokenizer(list(changed.values()), made.read_file, made.config)
    assert found.problems
    assert "expected user-defined" in found.problems[0]


def test_a_template_of_its_own_file_wins_as_in_transformers() -> None:
    made = chatting("qwen2").but(chat_template__jinja=b"{{ 3 }}")
    entries = {e.key: e for e in sound("qwen2")}
    right = with_value(entries, TEMPLATE, "string", "{{ 3 }}")
    assert check_tokenizer(list(right.values()), made.read_file, made.config).ok
    found = check_tokenizer(list(entries.values()), made.read_file, made.config)
    assert "chat_template.jinja" in found.problems[0]
