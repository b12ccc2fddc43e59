"""A small vocabulary of PLaMo's kind: control tokens, all bytes, characters and words with scores."""

from __future__ import annotations

import json
from typing import Any

FILE = "tokenizer.jsonl"
NAMES = ("unk", "bos", "eos", "pad", "op", "begin_fim")
WORDS = (
    " ", "  ", "\n", "\t", "the", " the", "then", "thing", "ing", "hello", " hello", "it's", '"', "'", "\\n", "[", "]",
    "\u65e5", "\u672c", "\u65e5\u672c", "\u3042", "\u00e9", "e\u0301", "\U0001f600",
    "ab", "abc", "bcd", "cd", "0", "1", "01",
)  # fmt: skip
TOKENS: list[list[Any]] = [
    ["<|plamo:unk|>", 0.0, "UNKNOWN", 0, 0, 0, 0],
    *([f"<|plamo:{name}|>", 0.0, "CONTROL", 0, 0, 0, 0] for name in NAMES[1:5]),
    ["<|plamo:begin_fim|>", 0.0, "NORMAL", 0, 0, 0, 0],
    *([f"<0x{byte:02X}>", 0.0, "BYTE", 0, 0, 0, 0] for byte in range(256)),
    *([chr(code), -9.5 - 0.125 * (code % 7), "NORMAL", 0, 0, 0, 0] for code in range(ord("A"), ord("z") + 1)
      if chr(code).isalpha()),
    *([word, -6.0 - 0.37 * number, "NORMAL", 0, 0, 0, 0] for number, word in enumerate(WORDS)),
]  # fmt: skip
SETTINGS = json.dumps({f"{name}_token": f"<|plamo:{name}|>" for name in NAMES[:4]})


def lines(tokens: list[list[Any]] = TOKENS) -> str:
    """The file."""
    return "".join(f"{json.dumps(token, ensure_ascii=False)}\n" for token in tokens)
