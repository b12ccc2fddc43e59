"""tekken.json, the tokenizer file of Mistral's own layout, as the tokenizer.json that says the same.

    {"config":         {"pattern", "default_vocab_size", "default_num_special_tokens", "version"},
     "vocab":          [{"rank", "token_bytes": base64, "token_str"}, ...],
     "special_tokens": [{"rank", "token_str", "is_control"}, ...]}

Special tokens come first: the others have the id rank + default_num_special_tokens, as far as default_vocab_size
reaches. Text is split by the pattern; a piece that is a token is one, others are merged by the lowest rank, as in
tiktoken. Source: mistral_common's tekken.py and the reference converter (gguf-py/gguf/vocab.py, MistralVocab).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from quantkit.tokenizer.bpe import byte_alphabet
from quantkit.tokenizer.files import (
    MAX_TOKEN_CHARACTERS,
    MAX_TOKENS,
    TEKKEN,
    TokenizerFiles,
    bad,
    is_index,
    read_object,
)

FIRST_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip  # of files of version 7 and before, which list none
SETTINGS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "add_bos_token": True, "add_eos_token": False,
}  # fmt: skip
MAX_TOKEN_BYTES = 1 << 10  # the longest known one has 128; all ways to cut it are tried
CHARACTERS = {byte: character for character, byte in byte_alphabet().items()}
MAX_MERGES = 1 << 23  # every way to put a token together from two is a merge; 131,072 tokens have 500,000


def tokenizer_json_of_tekken(files: TokenizerFiles) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with tekken.json; None where there is none. Takes 3 s for 131,072 tokens.

    Raises InputError naming the key for files that are not what the format says.
    """
    raw = read_object(files.read_file, TEKKEN)
    if raw is None:
        return None
    config = raw.get("config")
    if not isinstance(config, dict):
        raise bad(TEKKEN, "config", type(config).__name__, "an object")
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise bad(TEKKEN, "config.pattern", pattern, "a pattern")
    size, first = (_count(config, key) for key in ("default_vocab_size", "default_num_special_tokens"))
    special = _special(raw.get("special_tokens"), first)
    ranks = _ranks(raw.get("vocab"), size - first)
    names = {token: _text(token) for token in ranks}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    own = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    ids = {text: index for index, text in enumerate(special)}
    for token, rank in ranks.items():
        ids.setdefault(names[token], rank + first)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(index, text) for index, text in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, own]},
        "post_processor": None,
        "decoder": {**own, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": ids, "merges": _merges(ranks, names),
        },
    }  # fmt: skip


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not is_index(value, MAX_TOKENS + 1):
        raise bad(TEKKEN, f"config.{key}", value, f"a number of tokens up to {MAX_TOKENS:,}")
    return int(value)  # type: ignore[arg-type]


def _special(listed: object, count: int) -> list[str]:
    """The texts of the special tokens by rank, filled up as mistral_common does."""
    if listed is None:
        listed = [{"rank": rank, "token_str": text} for rank, text in enumerate(FIRST_SPECIAL)]
    if not isinstance(listed, list):
        raise bad(TEKKEN, "special_tokens", type(listed).__name__, "a list")
    found = [f"<SPECIAL_{rank}>" for rank in range(count)]
    for position, entry in enumerate(listed):
        key = f"special_tokens[{position}]"
        rank, text = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if not is_index(rank, count) or not isinstance(text, str) or not 0 < len(text) <= MAX_TOKEN_CHARACTERS:
            raise bad(TEKKEN, key, entry, f"a text and a rank below {count:,}")
        found[int(rank)] = text  # type: ignore[arg-type]
    return found


def _ranks(vocab: object, count: int) -> dict[bytes, int]:
    """The bytes of the first `count` tokens and their ranks, in order of rank."""
    if not isinstance(vocab, list) or not 256 <= count <= len(vocab):
        what = f"{len(vocab):,} tokens" if isinstance(vocab, list) else type(vocab).__name__
        raise bad(TEKKEN, "vocab", what, f"a list of at least {max(count, 256):,} tokens, the single bytes first")
    found: dict[bytes, int] = {}
    for rank, entry in enumerate(vocab[:count]):
        token = _bytes(entry.get("token_bytes")) if isinstance(entry, dict) and entry.get("rank") == rank else b""
        if not 0 < len(token) <= MAX_TOKEN_BYTES or token in found or (rank < 256 and token != bytes([rank])):
            raise bad(TEKKEN, f"vocab[{rank}]", entry, f"a new token of rank {rank} in base64")
        found[token] = rank
    return found


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _text(token: bytes) -> str:
    """A token in the alphabet of byte-level BPE."""
    return "".join(CHARACTERS[byte] for byte in token)


def _merges(ranks: Mapping[bytes, int], names: Mapping[bytes, str]) -> list[list[str]]:
    """Every way to make a token of two others, by rank: merging in this order merges by the lowest rank."""
    merges = []
    for token, rank in ranks.items():
        if rank < 256:
            continue
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        made = sorted((ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks)
        merges += [[names[a], names[b]] for _, _, a, b in made]
        if len(merges) > MAX_MERGES:
            raise bad(TEKKEN, "vocab", f"more than {MAX_MERGES:,} merges", "a vocabulary of words")
    return merges


def _entry(index: int, text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, "special": True, **flags}
