"""`vocab.json` and `merges.txt` as the tokenizer.json that transformers makes of them.

The two files do not say how text is split; the class of the tokenizer does. Known are the classes of the families
that are published this way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantkit.tokenizer.files import TokenizerFiles, read_object, read_text

VOCAB, MERGES = "vocab.json", "merges.txt"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}
SECTIONS: Mapping[str, tuple[Any, Any]] = {  # class -> normalizer and pre_tokenizer
    "Qwen2Tokenizer": ({"type": "NFC"}, {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}),
    "GPT2Tokenizer": (None, {**BYTES, "use_regex": True}),
}


def tokenizer_json_of(files: TokenizerFiles) -> dict[str, Any] | None:
    """A parsed tokenizer.json for the vocabulary and merges of a folder; None where it has none, or of a class that
    says nothing about how text is split. Added tokens are not in it."""
    vocab, merges = read_object(files.read_file, VOCAB), read_text(files.read_file, MERGES)
    name = str(files.settings.get("tokenizer_class")).removesuffix("Fast")
    if vocab is None or merges is None or name not in SECTIONS:
        return None
    normalizer, pre_tokenizer = SECTIONS[name]
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    model = {"type": "BPE", "vocab": vocab, "merges": lines, "byte_fallback": False, "ignore_merges": False}
    sections = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None}
    return {"version": "1.0", "added_tokens": [], **sections, "decoder": None, "model": model}


def dumped(raw: Mapping[str, Any]) -> bytes:
    """The bytes of a tokenizer.json for the library."""
    return json.dumps(raw).encode()
