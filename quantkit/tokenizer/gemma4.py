"""Gemma 4's vocabulary: pieces of SentencePiece and bytes where there is none, but merged by rank as in BPE.

llama.cpp calls the model "gemma4": spaces are written as U+2581, text is split at line breaks only, and pairs merge in
the order of the merges. Scores are there and nothing reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import UnsupportedError
from quantkit.tokenizer.bpe import added_tokens, rows_for
from quantkit.tokenizer.files import TOKENIZER_JSON, BpeTokenizer, TokenizerFiles
from quantkit.tokenizer.libraries import BatchEncoder, by_library, cut_before
from quantkit.tokenizer.spm import BYTE, find_spaces
from quantkit.tokenizer.vocabulary import (
    ADDED_SCORE,
    SPACE,
    Token,
    TokenType,
    Vocabulary,
    check_distinct,
    missing_bytes,
    padding,
)

GEMMA4 = "gemma4"
# Special in the source, but shown with a text, so that whoever reads chats and calls of tools finds them.
SHOWN = frozenset(
    {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}
)
BREAK = "\n"
BREAKS = re.compile(r"(\n+)")


def gemma4_vocabulary(tokenizer: BpeTokenizer, files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of a tokenizer.json whose BPE falls back to bytes, with its merges, padded to the embedding.

    Differs from the reference (conversion/gemma.py, Gemma4Model.set_vocab) in added tokens inside the vocabulary that
    are not special, which that takes for ordinary ones, so that llama.cpp splits what the source never does; and in
    padding, without which llama.cpp refuses a file with more rows than tokens. Raises UnsupportedError for a tokenizer
    of another kind.
    """
    if not tokenizer.byte_fallback:
        message = f"{TOKENIZER_JSON} has no byte fallback, which Gemma 4 has"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="model", hint="is this the tokenizer of the model?")
    spaces = find_spaces(tokenizer)
    if spaces.prefix:
        message = f"{TOKENIZER_JSON} puts a space before text, llama.cpp's gemma4 does not"
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="normalizer", hint="use the published tokenizer.json")
    added, warnings = added_tokens(tokenizer, files)
    size, left_out = rows_for(tokenizer, added, files)
    merged = {left + right for left, right in tokenizer.merges}
    tokens = [padding(index, ADDED_SCORE) for index in range(size)]
    for text, index in tokenizer.vocab.items():
        if index < size:
            kind = TokenType.BYTE if BYTE.fullmatch(text) else TokenType.NORMAL
            tokens[index] = Token(text, kind, ADDED_SCORE)
    for token in added:
        plain = not token.special and token.content in merged and not token.content.strip(SPACE + BREAK)
        if token.index < size and not plain:
            tokens[token.index] = _added(token.content, token.special)
    check_distinct(tokens)
    notes = (*warnings, *left_out, *spaces.warnings, *missing_bytes(tokens))
    return Vocabulary(GEMMA4, "default", tuple(tokens), tokenizer.merge_lines, space_prefix=False, warnings=notes)


def _added(text: str, special: bool) -> Token:
    if special and text not in SHOWN:
        return Token(text, TokenType.CONTROL, ADDED_SCORE)
    return Token(text if special else text.replace(SPACE, " "), TokenType.USER_DEFINED, ADDED_SCORE)


def rebuild_gemma4(tokens: Sequence[str], merges: Sequence[tuple[str, str]], unknown: int | None) -> BatchEncoder:
    """The encoder of such a vocabulary by llama.cpp's rules: a run of line breaks that is a token is taken whole."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Replace
    from tokenizers.pre_tokenizers import Split

    vocab = {token: index for index, token in enumerate(tokens)}
    more: dict[str, Any] = {} if unknown is None else {"unk_token": tokens[unknown]}
    tokenizer = Tokenizer(BPE(vocab, list(merges), byte_fallback=True, **more))
    tokenizer.normalizer = Replace(" ", SPACE)
    tokenizer.pre_tokenizer = Split(Regex(r"\n+"), "isolated")
    return cut_before(lambda text: _breaks(text, vocab), by_library(tokenizer))


def _breaks(text: str, vocab: Mapping[str, int]) -> list[str | int]:
    """The text with ids in place of runs of line breaks that are tokens."""
    return [vocab.get(part, part) if part.startswith(BREAK) else part for part in BREAKS.split(text)]
