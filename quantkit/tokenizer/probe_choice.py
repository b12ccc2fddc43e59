"""Which probes can be compared: what to leave out, and why.

The probes are the 2,000 fixed texts, with special tokens of the source in them, and words of the source's own
vocabulary: those that no merge makes and an even sample of the rest. Left out is text that llama.cpp is known to
split otherwise than the source whatever a file says, each for a reason that is reported. What the source does is
seen by asking its tokenizer, not by reading its settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from quantkit.records import record
from quantkit.tokenizer.bpe import byte_alphabet
from quantkit.tokenizer.files import TOKENIZER_JSON
from quantkit.tokenizer.gemma4 import GEMMA4
from quantkit.tokenizer.libraries import Finder
from quantkit.tokenizer.listings import Listed
from quantkit.tokenizer.own import SAMPLE, SourceTokenizer
from quantkit.tokenizer.pre import recognize
from quantkit.tokenizer.pre_table import LLAMA_CPP
from quantkit.tokenizer.probes import Why, probes
from quantkit.tokenizer.rebuilt import Artifact, cut_by
from quantkit.tokenizer.vocabulary import SPACE
from quantkit.untrusted import shown

MAX_OWN_SPECIAL = 64  # special tokens of a source that are put into probes
MAX_WORDS, MAX_UNMADE = 8000, 4000
MAX_NAMED = 3

LeftOut = tuple[tuple[str, int], ...]


@record
class Chosen:
    """Probes to compare, the fixed texts and then words; for every reason to leave some out, how many."""

    texts: tuple[str, ...]
    words: tuple[str, ...]
    left_out: LeftOut


def choose(source: SourceTokenizer, artifact: Artifact) -> Chosen:
    """The probes for a source and what was made of it. Takes up to a second for 250,000 tokens."""
    unmade = tuple(unmade_pieces(source))
    rules = tuple(_rules(source, artifact, unmade))
    # Added runs of spaces are spelled with U+2581, which no text has: llama.cpp takes it for a space.
    own = [token for token in source.listed_texts if token not in source.contradicted and SPACE not in token]
    special = own[:: -(-len(own) // MAX_OWN_SPECIAL)] if own else []
    counts: dict[str, int] = {}

    def comparable(texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            why = next((found for rule in rules if (found := rule(text))), None)
            if why is None:
                yield text
            else:
                counts[why] = counts.get(why, 0) + 1

    texts = tuple(comparable(probes(special)))
    words = tuple(comparable(vocabulary_words(source, unmade)))
    return Chosen(texts, words, tuple(sorted(counts.items(), key=lambda pair: -pair[1])))


def vocabulary_words(source: SourceTokenizer, first: Sequence[str]) -> list[str]:
    """Words of the vocabulary as text: up to 4,000 of `first`, those that no merge makes, and 8,000 more, evenly
    spread."""
    ordinary = [text for text in source.in_order if text not in source.listed_texts]
    unmade = set(first)
    rest = [text for text in ordinary if text not in unmade]
    picked = [*_even(first, MAX_UNMADE), *_even(rest, MAX_WORDS)]
    if source.kind == "WordPiece":
        return list(dict.fromkeys(text.removeprefix("##") for text in picked))
    lost = SPACE if source.prefixes else ""  # a space that the tokenizer puts first need not be there
    read = _byte_text if source.byte_level else (lambda piece: piece.removeprefix(lost).replace(SPACE, " "))
    return list(dict.fromkeys(text for text in map(read, picked) if text))


def unmade_pieces(source: SourceTokenizer) -> Iterator[str]:
    """Pieces of a tokenizer.json of more than one character that no merge makes, in order of id."""
    model = (source.raw or {}).get("model") or {}
    if not isinstance(model.get("merges"), list):
        return
    merges = model["merges"]
    if merges and isinstance(merges[0], str):
        made = {merge.replace(" ", "", 1) for merge in merges}
    else:
        made = set(map("".join, merges))
    for text in source.in_order:
        if len(text) > 1 and text not in made and text not in source.listed_texts and not BYTE.fullmatch(text):
            yield text


BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _even(items: Sequence[str], most: int) -> Sequence[str]:
    return items[:: -(-len(items) // most)] if items else items


def _byte_text(piece: str) -> str | None:
    """The text of a byte-level piece; None for one that is no whole text."""
    alphabet = byte_alphabet()
    try:
        return bytes(alphabet[character] for character in piece).decode()
    except (KeyError, UnicodeDecodeError):
        return None


def _rules(source: SourceTokenizer, artifact: Artifact, unmade: Sequence[str]) -> Iterator[Why]:
    """Each says why a text is left out, or None; the first that speaks is counted."""
    ids = {text: source.ids.get(text, 0) for text in source.listed_texts}
    changed = [text for text in artifact.found_at_load if text not in ids]
    yield from _holds(changed, "llama.cpp takes the ordinary {} for control tokens")
    beyond = [text for text, index in ids.items() if index >= len(artifact.tokens)]
    yield from _holds(beyond, "{} are beyond the rows of the embedding")
    yield from _holds(sorted(source.contradicted), "the files disagree on the ids of {}")
    flagged = dict.fromkeys(t.text for t in source.listed if t.single_word or (t.normalized and _moves(source, t)))
    yield from _holds(list(flagged), "the source matches {} in normalized text or as whole words only")
    yield from _strips(source, artifact)
    if source.kind in ("WordPiece", "Unigram"):
        from quantkit.tokenizer.probe_pieces import piece_rules

        yield from piece_rules(source, Finder(ids))
        return
    if source.byte_level:
        yield _cut_elsewhere(source, artifact, Finder(ids))
    else:
        yield _spaces(source, Finder(ids))
        if artifact.values.get("model") != GEMMA4:  # which merges by rank and makes no others
            yield from _unmade(unmade)
    yield lambda text: None if source.normal(text) else "the source normalizes such text, llama.cpp does not"


def _holds(tokens: Sequence[str], why: str) -> Iterator[Why]:
    if not tokens:
        return
    finder = Finder(dict.fromkeys(tokens, 0))
    reason = why.format(named(tokens))
    yield lambda text: reason if next(finder.all(text), None) else None


def named(tokens: Sequence[str]) -> str:
    """ "a", "b", "c" and 4 more."""
    names = ", ".join(f'"{shown(token, 40)}"' for token in tokens[:MAX_NAMED])
    return names + (f" and {len(tokens) - MAX_NAMED:,} more" if len(tokens) > MAX_NAMED else "")


def _moves(source: SourceTokenizer, token: Listed) -> bool:
    """Whether a token that is matched in normalized text is not found as in plain text, or what follows it is another.

    Beside a tokenizer.model it is the tokenizer.json's rule: no space is put before what follows such a token.
    """
    index, alone = source.ids.get(token.text), source.encode([SAMPLE])[0]
    if source.raw is None:
        return token.file == TOKENIZER_JSON and source.prefixes
    texts = [token.text, token.text + SAMPLE, SAMPLE + token.text]
    return index is None or source.encode(texts) != [[index], [index, *alone], [*alone, index]]


def _strips(source: SourceTokenizer, artifact: Artifact) -> Iterator[Why]:
    """Text in which a token stands beside spaces that the source drops, or llama.cpp."""
    right = {t.text: 0 for t in source.listed if t.rstrip} | artifact.strips_after
    left = {t.text: 0 for t in source.listed if t.lstrip}
    tokens = [*right, *(text for text in left if text not in right)]
    if not tokens:
        return
    finder = Finder({**right, **left})
    reason = f"the source or llama.cpp drops spaces beside {named(tokens)}"

    def why(text: str) -> str | None:
        for at, token in finder.all(text):
            end = at + len(token)
            if (token in right and text[end : end + 1].isspace()) or (token in left and text[:at][-1:].isspace()):
                return reason
        return None

    yield why


def _spaces(source: SourceTokenizer, finder: Finder) -> Why:
    """Whether the space before text is another: shared with one that is there, or left out after special tokens."""
    alone, spaced = source.encode([SAMPLE, f" {SAMPLE}"])
    shared = alone == spaced
    special = next((t for t in source.listed if t.special and not t.normalized and t.index == source.ids[t.text]), None)
    after = source.encode([f"{special.text}{SAMPLE}"])[0] if special else []
    legacy = source.files.settings.get("legacy") is False and source.raw is None
    first_only = special is not None and (after != [special.index, *alone] or (legacy and source.prefixes))

    def why(text: str) -> str | None:
        parts = finder.cut(text)
        if first_only and len(parts) > 1 and any(parts[2::2]):
            return "the source puts a space before the first text only, llama.cpp after special tokens too"
        if shared and any(isinstance(part, str) and part.startswith((" ", SPACE)) for part in parts):
            return "the source puts no space before text that begins with one, llama.cpp does"
        return None

    return why


def _unmade(pieces: Sequence[str]) -> Iterator[Why]:
    """Text with a piece that no merge of the source makes; llama.cpp's SentencePiece makes every piece."""
    if not pieces:
        return
    finder = Finder(dict.fromkeys(pieces, 0))
    reason = f"no merge of the source makes {named(pieces)}, llama.cpp does"
    yield lambda text: reason if next(finder.all(SPACE + text.replace(" ", SPACE)), None) else None


def _cut_elsewhere(source: SourceTokenizer, artifact: Artifact, finder: Finder) -> Why:
    """Text that llama.cpp's patterns cut elsewhere, for a section of which the table knows that they differ."""
    known = recognize((source.raw or {}).get("pre_tokenizer"))
    pre = LLAMA_CPP.get(artifact.pre)
    if known is None or not known.differs or pre is None or pre.patterns != LLAMA_CPP[known.name].patterns:
        return lambda text: None
    reason = f'llama.cpp\'s "{artifact.pre}" splits such text otherwise: {known.differs}'
    assert source.library is not None
    mine, theirs, where = source.library.pre_tokenizer, cut_by(pre.patterns), known.where

    def alike(part: Any) -> bool:
        if not isinstance(part, str) or not part:
            return True
        if where:
            return re.search(where, part) is None
        return bool(mine.pre_tokenize_str(part) == theirs.pre_tokenize_str(part))

    return lambda text: None if all(map(alike, finder.cut(text))) else reason
