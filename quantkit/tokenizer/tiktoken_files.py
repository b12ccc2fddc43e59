"""Files of tiktoken ranks, as the tokenizer.json that says the same: Qwen 1, Hunyuan A13B, Kimi, GLM-4-9B.

    IQ== 0
    Ig== 1
    ..

A line is a token in base64 and its rank, which is its id. Such a file does not say how text is split, nor which tokens
are special: the code of each model does, of which no line is run. What it says is written down here for the files by
their names. A piece that is a token is one, others are merged by the lowest rank. Merges are the reference converter's
(conversion/qwen.py): a token is made by the pair that is left when it is merged by lower ranks alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from quantkit.records import record
from quantkit.tokenizer.bpe import byte_alphabet
from quantkit.tokenizer.files import (
    MAX_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_MODEL,
    TokenizerFiles,
    bad,
    read_bytes,
    read_settings_added,
)
from quantkit.tokenizer.pre_table import CL100K, KIMI
from quantkit.tokenizer.slow_files import QWEN2_PATTERN

MAX_TOKEN_BYTES = 1 << 10  # the longest known one has 128
CHARACTERS = {byte: character for character, byte in byte_alphabet().items()}
QWEN_FILE, HUNYUAN_FILE, KIMI_FILE = "qwen.tiktoken", "hy.tiktoken", "tiktoken.model"
GLM_CLASS = "ChatGLM4Tokenizer"  # whose ranks are in a tokenizer.model, as others' SentencePiece vocabularies are
END = "<|endoftext|>"
QWEN_FIRST, HUNYUAN_FIRST = (
    (END, "<|im_start|>", "<|im_end|>"),
    (END, "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"),
)
EXTRAS = 205  # <|extra_0|> and so on
KIMI_RESERVED = 256


@record
class Kind:
    """What a model's code says of its file: how text is split, whether it is normalized, and the special tokens from
    the last rank on; `settings` are what tokenizer_config.json may leave out, `forced` what holds whatever it says,
    `only` the class that it has to name, where files of other models are called so, too."""

    pattern: str
    special: Callable[[TokenizerFiles, int], list[str]]
    normalized: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    forced: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None


def _then_extras(*first: str) -> Callable[[TokenizerFiles, int], list[str]]:
    return lambda files, ranks: [*first, *(f"<|extra_{number}|>" for number in range(EXTRAS))]


def _reserved(files: TokenizerFiles, ranks: int) -> list[str]:
    """Kimi's: those that tokenizer_config.json names, and between them reserved ones, as far as there are rows."""
    named = {token.index: token.content for token in read_settings_added(files.settings)}
    rows = ranks + KIMI_RESERVED if files.vocab_size is None else files.vocab_size
    last = max((index + 1 for index in named if index < rows), default=ranks)
    stop = max(min(rows, ranks + KIMI_RESERVED), last)
    return [named.get(index, f"<|reserved_token_{index}|>") for index in range(ranks, stop)]


def _listed(files: TokenizerFiles, ranks: int) -> list[str]:
    """GLM-4's: those that tokenizer_config.json names. Raises InputError for one that is not behind the others."""
    named = {token.index: token.content for token in read_settings_added(files.settings)}
    stop = ranks + len(named)
    missing = next((index for index in range(ranks, stop) if index not in named), None)
    if missing is not None:
        raise bad(TOKENIZER_CONFIG, "added_tokens_decoder", f"no token {missing}", f"all tokens from {ranks} on")
    return [named[index] for index in range(ranks, stop)]


KINDS = {
    QWEN_FILE: Kind(
        QWEN2_PATTERN, _then_extras(*QWEN_FIRST), normalized=True, forced={"unk_token": END},
        settings={"bos_token": END, "eos_token": END},
    ),
    HUNYUAN_FILE: Kind(
        QWEN2_PATTERN, _then_extras(*HUNYUAN_FIRST), normalized=True, forced={"bos_token": "<|bos|>"},
        settings={"eos_token": "<|eos|>", "pad_token": "<|pad|>"},
    ),
    KIMI_FILE: Kind(KIMI, _reserved, settings={"bos_token": "[BOS]", "eos_token": "[EOS]"}),
    TOKENIZER_MODEL: Kind(CL100K[0], _listed, only=GLM_CLASS),
}  # fmt: skip


def reader_of(file: str) -> Callable[[TokenizerFiles], dict[str, Any] | None]:
    """What makes a tokenizer.json of the file called so."""
    return lambda files: tokenizer_json_of_ranks(files, file)


def tokenizer_json_of_ranks(files: TokenizerFiles, file: str) -> dict[str, Any] | None:
    """The tokenizer.json of a folder with such a file; None where there is none, or where it is another model's.

    Takes 4 s for 150,000 tokens.

    Raises InputError naming the line for a file that is not what the format says.
    """
    data = read_bytes(files.read_file, file)
    kind = KINDS[file]
    if data is None or (kind.only is not None and files.settings.get("tokenizer_class") != kind.only):
        return None
    ranks = _ranks(data, file)
    names = {token: "".join(CHARACTERS[byte] for byte in token) for token in ranks}
    special = kind.special(files, len(ranks))
    split = {"type": "Split", "pattern": {"Regex": kind.pattern}, "behavior": "Isolated", "invert": False}
    own = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(len(ranks) + number, text) for number, text in enumerate(special)],
        "normalizer": {"type": "NFC"} if kind.normalized else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, own]},
        "post_processor": None,
        "decoder": {**own, "add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {names[token]: rank for token, rank in ranks.items()}, "merges": _merges(ranks, names),
        },
    }  # fmt: skip


def _ranks(data: bytes, file: str) -> dict[bytes, int]:
    """The tokens and their ranks, which count the lines. Raises InputError for what is no such line."""
    found: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        parts = line.split()
        token = _bytes(parts[0]) if len(parts) == 2 else b""
        if not 0 < len(token) <= MAX_TOKEN_BYTES or token in found or parts[1] != str(len(found)).encode():
            said = line[:80].decode("latin-1")
            raise bad(file, f"line {number}", said, f"a new token in base64 and its rank, {len(found)}")
        found[token] = len(found)
        if len(found) > MAX_TOKENS:
            raise bad(file, "the number of tokens", f"above {MAX_TOKENS:,}", f"{MAX_TOKENS:,} at most")
    missing = next((byte for byte in range(256) if bytes([byte]) not in found), None)
    if missing is not None:
        raise bad(file, "tokens", f"none for the byte {missing}", "a token for every byte")
    return found


def _bytes(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _merges(ranks: Mapping[bytes, int], names: Mapping[bytes, str]) -> list[list[str]]:
    """The pair that makes each token, by rank; none for a token that lower ranks do not make."""
    pairs = (_merged_below(ranks, token, rank) for token, rank in ranks.items() if len(token) > 1)
    return [[names[parts[0]], names[parts[1]]] for parts in pairs if len(parts) == 2]


def _merged_below(ranks: Mapping[bytes, int], token: bytes, limit: int) -> list[bytes]:
    """The bytes of a token, merged by the lowest rank as long as this is below `limit`."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[at] + parts[at + 1], limit) for at in range(len(parts) - 1)]
        lowest = min(joined)
        if lowest >= limit:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _entry(index: int, text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, "special": True, **flags}
