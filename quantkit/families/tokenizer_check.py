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
from quantkit.families.probes import COUNT, probes
from quantkit.families.rebuilt_tokenizer import cut_by, ggml_entries, rebuild, special_tokens
from quantkit.families.source_tokenizer import SourceFiles, make_encoder, open_source_tokenizer, source_encoder
from quantkit.families.tokenizer_files import BpeTokenizer, ReadFile
from quantkit.families.tokenizer_spm import find_spaces
from quantkit.families.vocabulary import SPACE
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

__all__ = ["Comparison", "check_tokenizer", "comparable_probes", "rebuild", "source_encoder"]

MAX_OWN_SPECIAL = 64  # special tokens of a vocabulary that are put into probes


@dataclass(frozen=True)
class Comparison:
    """`passed` of `total` probes got the same ids. `difference` shows the first that did not, "" if there is none;
    `left_out` probes were not compared because llama.cpp is known to split such text otherwise."""

    passed: int
    total: int
    difference: str
    left_out: int = 0


def check_tokenizer(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> Comparison:
    """Encode the probes with the source's tokenizer and with the one rebuilt from a file's metadata.

    Takes one to five seconds. Raises InputError for metadata or source files that no tokenizer can be made of,
    UnsupportedError for the two pre-tokenizers whose splitting is code of llama.cpp's own.
    """
    source = open_source_tokenizer(read_file, config)
    expected, found = make_encoder(source), rebuild(metadata)
    texts = _comparable(metadata, source)
    wrong = [(text, want, have) for text in texts if (want := expected(text)) != (have := found(text))]
    difference = ""
    if wrong:
        text, want, have = wrong[0]
        at = next((i for i, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
        difference = f'"{shown(text, 60)}": token {at} is {have[at : at + 3]}, the source has {want[at : at + 3]}'
    return Comparison(len(texts) - len(wrong), len(texts), difference, COUNT - len(texts))


def comparable_probes(metadata: Sequence[KeyValue], read_file: ReadFile, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The probes, with the vocabulary's own special tokens in them, that llama.cpp can split as the source does.

    All 2,000, with two exceptions: text that begins with a space, for a tokenizer.json whose Metaspace shares the
    space it puts before text with one that is there; and text that llama.cpp's patterns cut elsewhere, for a
    pre-tokenizer of which the table (pretokenizer_table.RECOGNIZED) says that they differ.
    """
    return _comparable(metadata, open_source_tokenizer(read_file, config))


def _comparable(metadata: Sequence[KeyValue], source: SourceFiles) -> tuple[str, ...]:
    values = ggml_entries(metadata)
    special = list(special_tokens(values))
    texts = probes(special[:MAX_OWN_SPECIAL])
    tokenizer, data = source.tokenizer, source.data
    if source.pieces is not None or tokenizer is None or data is None:
        return texts
    alike: Callable[[str], bool] | None
    if tokenizer.byte_fallback:
        alike = _begins_without_space if find_spaces(tokenizer).shared else None
    else:
        alike = _cut_alike(tokenizer, data, LLAMA_CPP.get(str(values.get("pre"))))
    between = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "$.")
    return tuple(text for text in texts if all(map(alike, between.split(text)))) if alike else texts


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
