"""The files that stand in the place of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quantkit.tokenizer.files import TEKKEN, TokenizerFiles
from quantkit.tokenizer.piece_files import (
    PLAIN_MODELS,
    SHIFTED_MODEL,
    VOCAB_TXT,
    tokenizer_json_of_pieces,
    tokenizer_json_of_shifted,
    tokenizer_json_of_vocab_txt,
)
from quantkit.tokenizer.slow_files import VOCAB, tokenizer_json_of_slow_files
from quantkit.tokenizer.tekken import SETTINGS, tokenizer_json_of_tekken
from quantkit.tokenizer.tiktoken_files import KINDS, reader_of

__all__ = ["KINDS", "MADE"]

# file -> how its tokenizer.json is made, and what it says that tokenizer_config.json would
MADE: dict[str, tuple[Callable[[TokenizerFiles], dict[str, Any] | None], Mapping[str, Any]]] = {
    TEKKEN: (tokenizer_json_of_tekken, SETTINGS),
    **{file: (reader_of(file), kind.settings) for file, kind in KINDS.items()},
    VOCAB: (tokenizer_json_of_slow_files, {}),
    VOCAB_TXT: (tokenizer_json_of_vocab_txt, {}),
    SHIFTED_MODEL: (tokenizer_json_of_shifted, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    PLAIN_MODELS[0]: (tokenizer_json_of_pieces, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
}
