"""Does the vocabulary in a file split text as the source does? Asked without llama.cpp.

Two encoders are compared on 2,000 probes: the source's own (`source_tokenizer`), and one made from the entries of the
written file alone (`rebuilt_tokenizer`). Text that llama.cpp is known to split otherwise, whatever a file says, is
left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.families.encoders import load_tokenizer_json
from quantkit.families.pretokenizer_table import LLAMA_CPP, PreTokenizer
from quantkit.families.pretokenizers import recognize
from quantkit.families.probes import probes
from quantkit.families.rebuilt_tokenizer import (
    changed_at_load,
    cut_by,
    ggml_entries,
    rebuild,
    special_tokens,
)
from quantkit.families.sentencepiece_model import parse_sentencepiece
from quantkit.families.source_listed import listed_tokens
from quantkit.families.source_tokenizer import SourceFiles, make_encoder, open_source_tokenizer, source_encoder
from quantkit.families.tokenizer_files import BpeTokenizer, ReadFile
from quantkit.families.tokenizer_spm import find_spaces
from quantkit.families.vocabulary import SPACE, TokenType
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

__all__ = ["Comparison", "check_tokenizer", "comparable", "comparable_probes", "rebuild", "source_encoder"]

MAX_OWN_SPECIAL = 64  # special tokens of a vocabulary that are put into probes


@dataclass(frozen=True)
class Comparison:
    """`passed` of `total` probes got the same ids. `difference` shows the first that did not, "" if there is none;
    `reasons` say why probes were not compared, and how many: text that llama.cpp is known to split otherwise."""

    passed: int
    total: int
    difference: str
    reasons: tuple[tuple[str, int], ...] = ()

    @property
    def left_out(self) -> int:
        return sum(count for _, count in self.reasons)


@dataclass(frozen=True)
class Chosen:
    """Probes to compare; for every reason to leave some out, how many."""

    texts: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...]


def check_tokenizer(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> Comparison:
    """Encode the probes with the source's tokenizer and with the one rebuilt from a file's metadata.

    Takes one to five seconds. Raises InputError for metadata or source files that no tokenizer can be made of,
    UnsupportedError for the two pre-tokenizers whose splitting is code of llama.cpp's own.
    """
    source = open_source_tokenizer(read_file, config)
    expected, found = make_encoder(source), rebuild(metadata)
    chosen = _comparable(metadata, source)
    texts = chosen.texts
    wrong = [(text, want, have) for text in texts if (want := expected(text)) != (have := found(text))]
    difference = ""
    if wrong:
        text, want, have = wrong[0]
        at = next((i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
        difference = f'"{shown(text, 60)}": token {at} is {have[at : at + 3]}, the source has {want[at : at + 3]}'
    return Comparison(len(texts) - len(wrong), len(texts), difference, chosen.left_out)


def comparable_probes(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of `comparable`."""
    return comparable(metadata, read_file, config).texts


def comparable(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> Chosen:
    """The probes, with the vocabulary's own special tokens in them, that llama.cpp can split as the source does.

    All 2,000, with three exceptions: text that begins with a space, for a tokenizer.json whose Metaspace shares the
    space it puts before text with one that is there; text that llama.cpp's patterns cut elsewhere, for a
    pre-tokenizer of which the table (pretokenizer_table.RECOGNIZED) says that they differ; and text with ordinary
    tokens that llama.cpp calls control tokens (llama_cpp_tokens).
    """
    return _comparable(metadata, open_source_tokenizer(read_file, config))


def _comparable(metadata: Sequence[KeyValue], source: SourceFiles) -> Chosen:
    values = ggml_entries(metadata)
    special = list(special_tokens(values))
    meant = {token.text for token in listed_tokens(source.files.read_file, source.raw)}
    if source.pieces is not None:
        pieces = parse_sentencepiece(source.pieces).pieces
        meant |= {piece.text for piece in pieces if piece.kind is not TokenType.NORMAL}
    changed = [token for token in changed_at_load(values) if token not in meant]
    texts = probes(special[:MAX_OWN_SPECIAL])
    known = tuple(text for text in texts if not any(token in text for token in changed))
    reasons = []
    if len(known) < len(texts):
        names = ", ".join(f'"{shown(token)}"' for token in changed)
        reasons.append((f"llama.cpp takes the ordinary {names} for control tokens", len(texts) - len(known)))
    alike = _alike(values, source)
    if alike is None:
        return Chosen(known, tuple(reasons))
    between = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "$.")
    left = tuple(text for text in known if all(map(alike, between.split(text))))
    if len(left) < len(known):
        reasons.append(("llama.cpp is known to split such text otherwise", len(known) - len(left)))
    return Chosen(left, tuple(reasons))


def _alike(values: Mapping[str, Any], source: SourceFiles) -> Callable[[str], bool] | None:
    """Whether llama.cpp can split text without special tokens as the source does; None where it always can."""
    tokenizer, data = source.tokenizer, source.data
    if source.pieces is not None or tokenizer is None or data is None:
        return None
    if tokenizer.byte_fallback:
        return _begins_without_space if find_spaces(tokenizer).shared else None
    return _cut_alike(tokenizer, data, LLAMA_CPP.get(str(values.get("pre"))))


def _begins_without_space(text: str) -> bool:
    return not text.startswith((" ", SPACE))


def _cut_alike(tokenizer: BpeTokenizer, data: bytes, pre: PreTokenizer | None) -> Callable[[str], bool] | None:
    """Whether llama.cpp cuts a text as the source does; None where it always does or ought to."""
    known = recognize(tokenizer.pre_tokenizer)
    if known is None or not known.differs or pre is None or pre.patterns != LLAMA_CPP[known.name].patterns:
        return None
    if where := known.where:
        return lambda text: re.search(where, text) is None
    source, llama_cpp = load_tokenizer_json(data).pre_tokenizer, cut_by(pre.patterns)
    return lambda text: source.pre_tokenize_str(text) == llama_cpp.pre_tokenize_str(text)
