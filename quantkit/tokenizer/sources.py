"""A tokenizer.json, or what stands in its place: the files of tokenizers that have no such file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.tokenizer.files import MAX_VALUES, TEKKEN, TOKENIZER_JSON, TokenizerFiles, read_bytes, unique_keys
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
from quantkit.untrusted import parse_json_object

# file -> how its tokenizer.json is made, and what it says that tokenizer_config.json would
MADE: dict[str, tuple[Callable[[TokenizerFiles], dict[str, Any] | None], Mapping[str, Any]]] = {
    TEKKEN: (tokenizer_json_of_tekken, SETTINGS),
    **{file: (reader_of(file), kind.settings) for file, kind in KINDS.items()},
    VOCAB: (tokenizer_json_of_slow_files, {}),
    VOCAB_TXT: (tokenizer_json_of_vocab_txt, {}),
    SHIFTED_MODEL: (tokenizer_json_of_shifted, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    PLAIN_MODELS[0]: (tokenizer_json_of_pieces, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
}


@dataclass(frozen=True)
class TokenizerJson:
    """A tokenizer.json as bytes and parsed, the file it comes from, and the files with what this one says besides."""

    data: bytes
    raw: dict[str, Any]
    file: str
    files: TokenizerFiles


def open_tokenizer_json(files: TokenizerFiles, *, beside_model: bool = False) -> TokenizerJson | None:
    """The tokenizer.json of a checkpoint, made where another layout holds the same; None where there is neither.
    `beside_model`: a tokenizer.model is the tokenizer, so nothing is made.

    Raises InputError for broken files and UnsupportedError for a vocab.json of which nothing says how text is split.
    """
    data = read_bytes(files.read_file, TOKENIZER_JSON)
    if data is not None:
        raw = parse_json_object(data, Path(TOKENIZER_JSON), values=MAX_VALUES, pairs=unique_keys(TOKENIZER_JSON))
        return TokenizerJson(data, raw, TOKENIZER_JSON, files)
    for file, (make, settings) in () if beside_model else MADE.items():
        made = make(files)
        if made is not None:
            forced = KINDS[file].forced if file in KINDS else {}
            said = replace(files, settings={**settings, **files.settings, **forced})
            return TokenizerJson(json.dumps(made).encode(), made, file, said)
    return None
