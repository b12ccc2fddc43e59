"""A tokenizer.json, or what stands in its place: the files of tokenizers that have no such file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.records import record
from quantkit.tokenizer.files import MAX_VALUES, TOKENIZER_JSON, TokenizerFiles, read_bytes, unique_keys
from quantkit.untrusted import parse_json_object


@record
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
    if beside_model:
        return None
    from quantkit.tokenizer.stand_ins import KINDS, MADE  # for the few tokenizers without the file

    for file, (make, settings) in MADE.items():
        made = make(files)
        if made is not None:
            forced = KINDS[file].forced if file in KINDS else {}
            said = replace(files, settings={**settings, **files.settings, **forced})
            return TokenizerJson(json.dumps(made).encode(), made, file, said)
    return None
