"""The source's own tokenizer: sentencepiece for a tokenizer.model, the tokenizers library for a tokenizer.json.

Text is cut at special tokens first and what lies between is encoded by itself, as llama.cpp does. What this leaves
out is reported when the tokenizer is read: added tokens that take the spaces beside them, and tokenizers that put a
space before the first text only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantkit.errors import InputError
from quantkit.families.encoders import Encoder, framed, load_sentencepiece, load_tokenizer_json
from quantkit.families.sentencepiece_model import encode_sentencepiece, is_tiktoken, parse_sentencepiece
from quantkit.families.special_tokens import SpecialTokens, find_special_tokens
from quantkit.families.tokenizer_bpe import added_tokens, is_byte_level_class
from quantkit.families.tokenizer_files import (
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    AddedToken,
    BpeTokenizer,
    ReadFile,
    TokenizerFiles,
    parse_added,
    parse_tokenizer_json,
    read_bytes,
    read_settings_added,
    read_tokenizer_files,
)
from quantkit.families.tokenizer_sources import open_tokenizer_json
from quantkit.families.vocabulary import TokenType

SAMPLE = "a"  # any text; shows what the post-processor puts before and after it


@dataclass(frozen=True)
class SourceFiles:
    """The files that count: `pieces` of a tokenizer.model, or else a tokenizer.json as bytes, JSON and types."""

    files: TokenizerFiles
    pieces: bytes | None
    data: bytes | None
    raw: Mapping[str, Any] | None
    tokenizer: BpeTokenizer | None


def open_source_tokenizer(read_file: ReadFile, config: Mapping[str, Any]) -> SourceFiles:
    """Read the files of a checkpoint. Raises InputError where there is no tokenizer, or a broken one."""
    files = read_tokenizer_files(read_file, config)
    pieces = _sentencepiece_data(files)
    found = open_tokenizer_json(files, beside_model=pieces is not None)
    data, raw, files = (None, None, files) if found is None else (found.data, found.raw, found.files)
    if pieces is None and raw is None:
        message = f"no {TOKENIZER_MODEL} and no {TOKENIZER_JSON} to compare with"
        raise InputError(message, path=TOKENIZER_JSON, hint="verify against the checkpoint the file was made from")
    return SourceFiles(
        files, pieces, data, raw, parse_tokenizer_json(raw) if raw is not None and pieces is None else None
    )


def source_encoder(read_file: ReadFile, config: Mapping[str, Any], *, add_special: bool = True) -> Encoder:
    """The ids that the source's tokenizer gives, special tokens in the text included; with `add_special` also the
    BOS and EOS that it adds by itself.

    sentencepiece is the truth for a tokenizer.model, the tokenizers library for a tokenizer.json. Raises InputError
    where there is neither, or where they cannot be loaded.
    """
    return make_encoder(open_source_tokenizer(read_file, config), add_special=add_special)


def make_encoder(source: SourceFiles, *, add_special: bool = True) -> Encoder:
    """See `source_encoder`."""
    if source.pieces is not None:
        encode, first, last = _by_sentencepiece(source.pieces, source)
    else:
        assert source.data is not None
        assert source.tokenizer is not None
        encode, first, last = _by_tokenizers(source.data, source.tokenizer, source)
    return framed(encode, first, last) if add_special else encode


def _sentencepiece_data(files: TokenizerFiles) -> bytes | None:
    """The bytes of a tokenizer.model, if it counts; None where tokenizer.json does."""
    data = read_bytes(files.read_file, TOKENIZER_MODEL)
    byte_level = is_byte_level_class(files.settings) and files.config.get("model_type") == "phi3"
    return None if data is None or is_tiktoken(data) or byte_level else data


Parts = tuple[Encoder, list[int], list[int]]  # an encoder, and what the tokenizer puts before and after its ids


def _by_sentencepiece(data: bytes, source: SourceFiles) -> Parts:
    model, files = parse_sentencepiece(data), source.files
    rows = files.vocab_size or len(model.pieces)
    said = files.settings.get("add_prefix_space")
    if isinstance(said, bool) and said != model.add_dummy_prefix:
        data = encode_sentencepiece(replace(model, add_dummy_prefix=said))
    processor = load_sentencepiece(data)
    cut = {p.text: i for i, p in enumerate(model.pieces) if p.kind in {TokenType.CONTROL, TokenType.UNKNOWN}}
    added = [AddedToken(index, text, special=False, normalized=False) for text, index in files.added.items()]
    for token in (*added, *read_settings_added(files.settings), *parse_added(source.raw)):
        known = model.pieces[token.index] if token.index < len(model.pieces) else None
        if token.index < rows and (token.special or known is None or known.text != token.content):
            cut[token.content] = token.index
    special = find_special_tokens(source.raw, files.settings, files.root_config, rows)
    first = [special.ids.get("bos", processor.bos_id())] if special.adds.get("bos", True) else []
    last = [special.ids.get("eos", processor.eos_id())] if special.adds.get("eos", False) else []
    return _between(cut, processor.EncodeAsIds), first, last


def _by_tokenizers(data: bytes, tokenizer: BpeTokenizer, source: SourceFiles) -> Parts:
    files = source.files
    added, _ = added_tokens(tokenizer, files)
    library = load_tokenizer_json(data, added[len(tokenizer.added) :])

    def encode(text: str) -> list[int]:
        return library.encode(text, add_special_tokens=False).ids

    plain, whole = encode(SAMPLE), library.encode(SAMPLE, add_special_tokens=True).ids
    places = [at for at in range(len(whole)) if plain and whole[at : at + len(plain)] == plain]
    if tokenizer.post_processor is not None and places:
        first, last = whole[: places[0]], whole[places[0] + len(plain) :]
    else:
        count = len(tokenizer.vocab) + len(added)
        special = find_special_tokens(source.raw, files.settings, files.root_config, count)
        first, last = _placed("bos", special), _placed("eos", special)
    return _between({token.content: token.index for token in added}, encode), first, last


def _placed(kind: str, special: SpecialTokens) -> list[int]:
    return [special.ids[kind]] if special.adds.get(kind) and kind in special.ids else []


def _between(cut: Mapping[str, int], encode: Encoder) -> Encoder:
    """Encode what lies between special tokens; of those that begin at one place the longest counts."""
    if not cut:
        return encode
    pattern = re.compile("(" + "|".join(map(re.escape, sorted(cut, key=len, reverse=True))) + ")")

    def encode_all(text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(pattern.split(text)):
            if number % 2:
                ids.append(cut[part])
            elif part:
                ids += encode(part)
        return ids

    return encode_all
