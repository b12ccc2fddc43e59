"""Folders without a tokenizer.json whose other files say the same: vocab.json with merges.txt, tekken.json."""

from __future__ import annotations

import base64
import json
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from real_folders import REALITY, needs_reality
from tokenizer_kinds import Kind, config, dumped, kind

from quantkit.errors import InputError, UnsupportedError
from quantkit.tokenizer.check import rebuild
from quantkit.tokenizer.probes import probes
from quantkit.tokenizer.read import Tokenizer, read_tokenizer
from quantkit.tokenizer.tekken import FIRST_SPECIAL

TEXTS = ("", " Việt nhiều", "x<|im_end|>y<|endoftext|>\n", "<tool_call>{}</tool_call>", *probes()[:300])


def read(made: Kind) -> Tokenizer:
    return read_tokenizer(made.read_file, made.config, made.rules)


def values_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in tokenizer.metadata}


def slow(base: str, *, listed: bool = True) -> Kind:
    """The folder that transformers 4 would have written with the slow tokenizer of this kind."""
    made = kind(base)
    raw, settings = made.parsed("tokenizer.json"), made.parsed("tokenizer_config.json")
    later = {token["content"]: token["id"] for token in raw["added_tokens"]}
    flags = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in raw["added_tokens"]}
    settings = {**settings, "added_tokens_decoder": flags if listed else {}}
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in map(_pair, raw["model"]["merges"]))
    return made.but(
        tokenizer__json=None, vocab__json=dumped(raw["model"]["vocab"]), merges__txt=merges.encode(),
        added_tokens__json=dumped(later), tokenizer_config__json=dumped(settings),
        special_tokens_map__json=dumped({"additional_special_tokens": list(later)}),
    )  # fmt: skip


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


@pytest.mark.parametrize("base", ["qwen2", "qwen3", "smollm"])
def test_slow_files_are_read_as_transformers_reads_them(base: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = slow(base)
    tokenizer = read(made)
    theirs = AutoTokenizer.from_pretrained(str(made.write(tmp_path)))
    ours = rebuild(tokenizer.metadata)
    values = values_of(tokenizer)
    known = {text: index for index, text in enumerate(values["tokens"])}
    assert {text: known[text] for text in theirs.get_added_vocab()} == theirs.get_added_vocab()
    assert values["pre"] == ("gpt-2" if base == "smollm" else "qwen2")
    assert values["eos_token_id"] == theirs.eos_token_id
    different = [text for text in TEXTS if ours(text) != theirs(text)["input_ids"]]
    changed = [text for text in different if theirs.backend_tokenizer.normalizer and _normalized(text) != text]
    assert different == changed  # NFC is llama.cpp's known difference, and warned of


def test_added_tokens_json_alone_gives_the_ids() -> None:
    """transformers 5 numbers the tokens anew then; the ids that the model learned are those of the file."""
    made = slow("qwen2", listed=False)
    values = values_of(read(made))
    assert {values["tokens"][index]: index for index in made.parsed("added_tokens.json").values()} == made.parsed(
        "added_tokens.json"
    )
    control = [text for text, kind in zip(values["tokens"], values["token_type"], strict=True) if kind == 3]
    assert control == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # what tokenizer_config.json names


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("base", ["qwen2", "qwen3"])
def test_slow_files_say_what_the_tokenizer_json_says(base: str) -> None:
    found, wanted = values_of(read(slow(base))), values_of(read(kind(base)))
    for key in ("tokens", "token_type", "merges", "pre", "eos_token_id", "padding_token_id", "add_bos_token"):
        assert found[key] == wanted[key], key


def test_the_type_of_the_model_stands_in_for_the_class() -> None:
    made = slow("qwen3")
    settings = {k: v for k, v in made.parsed("tokenizer_config.json").items() if k != "tokenizer_class"}
    assert read(made.but(tokenizer_config__json=dumped(settings))).pre == "qwen2"
    llama = made.but(config__json=config("LlamaForCausalLM", "llama", 2000), tokenizer_config__json=dumped(settings))
    with pytest.raises(UnsupportedError, match='do not say how text is split, and neither does model_type "llama"'):
        read(llama)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"merges__txt": b"#version\na b c\n"}, "merges.txt: line 2 is a b c, expected two tokens"),
        ({"merges__txt": b"never seen\n"}, '"never" is not'),
        ({"merges__txt": b"\xff"}, "merges.txt: not UTF-8"),
        ({"vocab__json": b"[]"}, "expected a JSON object"),
        ({"vocab__json": b'{"a": -1}'}, "is -1"),
        ({"merges__txt": None}, r"no tokenizer.json \(there is vocab.json, which is not enough\)"),
    ],
)
def test_broken_slow_files(change: dict[str, bytes | None], why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        read(slow("qwen2").but(**change))
    assert caught.value.hint


@pytest.mark.slow
@needs_reality
def test_real_slow_files() -> None:
    """Qwen3-0.6B without its tokenizer.json, against transformers."""
    from transformers import AutoTokenizer

    folder = REALITY / "qwen3-0.6b-slow-files"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    tokenizer = read(Kind("qwen3", "Qwen3ForCausalLM", files))
    theirs, ours = AutoTokenizer.from_pretrained(str(folder)), rebuild(tokenizer.metadata)
    different = [text for text in TEXTS if ours(text) != theirs(text)["input_ids"] and "</s>" not in text]
    assert [text for text in different if _normalized(text) == text] == []


@cache
def tekken(version: str = "v3", count: int = 700) -> bytes:
    """A tekken.json of the bytes and of frequent words and parts of words, by rank."""
    words: dict[bytes, int] = {bytes([byte]): byte for byte in range(256)}
    data = [text.encode() for text in probes()]
    for size in (2, 3, 4, 5, 8):
        for text in data:
            for at in range(len(text) - size):
                part = text[at : at + size]
                cuts = [(part[:cut], part[cut:]) for cut in range(1, size)]
                if any(a in words and b in words for a, b in cuts) and len(words) < 256 + size * count // 8:
                    words.setdefault(part, len(words))
    pattern = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for word, rank in words.items()]
    special = [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(FIRST_SPECIAL)]
    sizes = {"default_vocab_size": len(words) + 40, "default_num_special_tokens": 50}  # the last ten are cut off
    raw = {"config": {"pattern": pattern, "num_vocab_tokens": len(words), "version": version, **sizes}, "vocab": vocab}
    return dumped(raw if version == "v3" else {**raw, "special_tokens": special})


def tekken_kind(data: bytes) -> Kind:
    raw = json.loads(data)
    rows = raw["config"]["default_vocab_size"] if isinstance(raw.get("config"), dict) else 1000
    return Kind("llama", "MistralForCausalLM", {
        "tekken.json": data, "config.json": config("MistralForCausalLM", "mistral", rows)
    })  # fmt: skip


def tiktoken(data: bytes, text: str) -> list[int]:
    """The ids by tiktoken's rule: the pair whose join has the lowest rank is merged, a whole word first of all."""
    raw = json.loads(data)
    first = raw["config"]["default_num_special_tokens"]
    count = raw["config"]["default_vocab_size"] - first
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in raw["vocab"][:count]}
    ids = []
    for word in regex.findall(raw["config"]["pattern"], text):
        parts = [bytes([byte]) for byte in word.encode()]
        if word.encode() in ranks:
            parts = [word.encode()]
        while len(parts) > 1:
            joined = [(ranks.get(a + b, 1 << 30), at) for at, (a, b) in enumerate(pairwise(parts))]
            rank, at = min(joined)
            if rank == 1 << 30:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] + first for part in parts]
    return ids


@pytest.mark.parametrize("version", ["v3", "v11"])
def test_tekken_alone_gives_the_ids_of_tiktoken(version: str) -> None:
    data = tekken(version)
    tokenizer = read(tekken_kind(data))
    values = values_of(tokenizer)
    ours = rebuild(tokenizer.metadata, add_special=False)
    texts = [text for text in probes()[:400] if text.isascii() and "<" not in text and "[" not in text]
    assert len(texts) > 150
    assert [text for text in texts if ours(text) != tiktoken(data, text)] == []
    assert ours("<s>[INST]") == [1, 3]
    assert values["pre"] == "tekken"
    assert values["tokens"][:4] == ("<unk>", "<s>", "</s>", "[INST]")
    assert values["tokens"][49] == "<SPECIAL_49>"
    assert set(values["token_type"][:50]) == {3}
    assert (values["add_bos_token"], values["add_eos_token"]) == (True, False)
    ids = [values[f"{name}_token_id"] for name in ("bos", "eos", "unknown", "padding")]
    assert ids == [1, 2, 0, 11]
    assert any(code == "chat-template" for code, _ in tokenizer.warnings)


def tekken_with(**changes: Any) -> bytes:
    raw = json.loads(tekken())
    for key, value in changes.items():
        at = raw["config"] if key in raw["config"] else raw
        at[key] = value
    return dumped(raw)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config": []}, "config is list"),
        ({"pattern": 7}, "config.pattern is 7"),
        ({"default_vocab_size": 10**30}, "config.default_vocab_size is 1000000"),
        ({"default_num_special_tokens": -1}, "config.default_num_special_tokens is -1"),
        ({"default_vocab_size": 100}, "expected a list of at least 256"),
        ({"vocab": {}}, "vocab is dict"),
        ({"vocab": [{"rank": 1, "token_bytes": "AA=="}] * 2000}, r"vocab\[0\]"),
        ({"vocab": [{"rank": 0, "token_bytes": "!"}] * 2000}, r"vocab\[0\]"),
        ({"special_tokens": {}}, "special_tokens is dict"),
        ({"special_tokens": [{"rank": 50, "token_str": "<a>"}]}, r"special_tokens\[0\]"),
    ],
)
def test_broken_tekken_files(change: dict[str, Any], why: str) -> None:
    made = tekken_kind(tekken())
    with pytest.raises(InputError, match=why) as caught:
        read(made.but(tekken__json=tekken_with(**change)))
    assert caught.value.hint


@pytest.mark.slow
def test_the_published_tekken_vocabulary() -> None:
    """The file of the package mistral-common, by tiktoken's rule."""
    package = pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    data = (Path(package.__file__).parent / "data" / "tekken_240911.json").read_bytes()
    tokenizer = read(tekken_kind(data))
    ours = rebuild(tokenizer.metadata, add_special=False)
    texts = [text for text in probes()[:200] if text.isascii() and "<" not in text and "[" not in text]
    assert [text for text in texts if ours(text) != tiktoken(data, text)] == []
