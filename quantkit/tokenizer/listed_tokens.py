"""The tokens that other files list beside a tokenizer.model: one vocabulary out of up to four descriptions.

added_tokens.json gives ids, `added_tokens_decoder` of tokenizer_config.json ids and flags, tokenizer.json the same and
a vocabulary of its own, and the named special tokens nothing but texts. A token may be in any of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.records import record
from quantkit.tokenizer.files import (
    ADDED_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    AddedToken,
    TokenizerFiles,
    named_tokens,
    parse_added,
    read_settings_added,
)
from quantkit.tokenizer.sentencepiece_model import SentencePieceModel
from quantkit.tokenizer.vocabulary import ADDED_SCORE, SPACE, Token, TokenType, looks_special
from quantkit.untrusted import listed, shown

OTHER_MODEL = 0.1  # the part of ordinary pieces with other ids from which on two files are of two models

MakeToken = Callable[[AddedToken], Token]


@record
class Listing:
    """The tokens of one file, and what each becomes."""

    file: str
    tokens: Sequence[AddedToken]
    make: MakeToken


@dataclass
class Placing:
    """Tokens as they are put into the rows of the embedding; what does not fit is noted for a warning."""

    tokens: list[Token]
    pieces: Mapping[str, int]
    taken: dict[int, str] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def place(self, listing: Listing) -> None:
        """Put the tokens of a file in; what an earlier listing said of a row or a text stays."""
        for token in listing.tokens:
            known = self.known(token.content)
            if known is not None:
                if known != token.index:
                    self.other.append(f'"{shown(token.content)}" has id {known}, {listing.file} gives it {token.index}')
                if known in self.taken or known != token.index:
                    continue
            if token.index in self.taken:
                kept = f'row {token.index} is "{shown(self.taken[token.index])}"'
                self.other.append(f'{kept}, {listing.file} has "{shown(token.content)}" there')
            elif token.index >= len(self.tokens):
                self.beyond.setdefault(token.content, f'{listing.file}: "{shown(token.content)}" has id {token.index}')
            else:
                self.tokens[token.index] = listing.make(token)
                self.taken[token.index] = token.content
                self.owners[token.content] = token.index

    def known(self, text: str) -> int | None:
        """The id of a text among the tokens placed so far and the pieces that are still there."""
        if text in self.owners:
            return self.owners[text]
        index = self.pieces.get(text)
        return None if index is None or index in self.taken else index

    def warnings(self) -> Iterator[tuple[str, str]]:
        rows = f"the embedding {len(self.tokens):,} rows"
        for what in self.beyond.values():
            yield "tokenizer-added", f"{what}, {rows}; left out"
        for what in self.other:
            yield "tokenizer-ids", what


def place_listed(
    tokens: list[Token], model: SentencePieceModel, files: TokenizerFiles, raw: Mapping[str, Any] | None, *, phi: bool
) -> tuple[tuple[str, str], ...]:
    """Put what the files list into `tokens`, one for each row of the embedding, which hold the pieces of `model`.

    The reference (conversion/base.py, _create_vocab_sentencepiece) knows added_tokens.json and, over it,
    `added_tokens_decoder`; with `phi` (conversion/phi.py) tokenizer.json over both, and no token is special by its
    look. Differs from it: otherwise too, tokens after the pieces that only tokenizer.json lists are taken from there;
    a token that any file calls special is a control token; special tokens that no file gives an id get the next ones,
    as in transformers; and a text that is a piece already keeps the id of the piece.
    Returns warnings. Raises InputError for entries that are not tokens.
    """
    pieces = {piece.text: index for index, piece in enumerate(model.pieces)}
    there = len(model.pieces)
    of_json, warnings = _of_tokenizer_json(raw, model)
    names = named_tokens(files)
    special = {token.content for token in (*names, *of_json) if token.special}
    plain = [AddedToken(i, text, special=text in special, normalized=False) for text, i in files.added.items()]
    listings = [
        Listing(TOKENIZER_CONFIG, read_settings_added(files.settings), by_flag if phi else by_look),
        Listing(ADDED_TOKENS, plain, by_flag),
    ]
    if phi:
        listings.insert(0, Listing(TOKENIZER_JSON, of_json, by_flag))
    else:
        listings.append(Listing(TOKENIZER_JSON, [token for token in of_json if token.index >= there], by_look))
    placing = Placing(tokens, pieces)
    for listing in listings:
        placing.place(listing)
    placing.place(Listing(TOKENIZER_CONFIG, list(_numbered(names, placing, there)), by_flag))
    for token in names:
        index = placing.known(token.content)
        if token.special and index is not None and index < len(tokens) and tokens[index].kind is TokenType.NORMAL:
            tokens[index] = by_flag(token)  # an ordinary piece that has a name: transformers finds it in text
    return (*warnings, *placing.warnings())


def _numbered(names: Iterable[AddedToken], placing: Placing, following: int) -> Iterator[AddedToken]:
    """The special tokens that nothing gives an id, with the next ones."""
    following = max(following, *(index + 1 for index in placing.taken), 0)
    unknown = {token.content for token in names if placing.known(token.content) is None} - placing.beyond.keys()
    for text in dict.fromkeys(token.content for token in names):
        if text in unknown:
            yield AddedToken(following, text, special=True, normalized=False)
            following += 1


def _of_tokenizer_json(
    raw: Mapping[str, Any] | None, model: SentencePieceModel
) -> tuple[tuple[AddedToken, ...], tuple[tuple[str, str], ...]]:
    """The added tokens of a tokenizer.json, unless it is another model's, and a warning where it disagrees."""
    other, part = _disagreement(raw, model)
    if not other:
        return parse_added(raw), ()
    message = (
        f"{len(other):,} pieces of {TOKENIZER_MODEL} have no such id in {TOKENIZER_JSON}: {listed(other, 3)}; "
        f"{TOKENIZER_MODEL} was taken"
    )
    if part > OTHER_MODEL:
        message = f"{TOKENIZER_MODEL} and {TOKENIZER_JSON} are of two different models: {message}"
        return (), (("tokenizer-files", message),)
    return parse_added(raw), (("tokenizer-files", message),)


def of_one_model(raw: Mapping[str, Any] | None, model: SentencePieceModel) -> bool:
    """Whether a parsed tokenizer.json describes the same vocabulary as a tokenizer.model; one with none does."""
    return _disagreement(raw, model)[1] <= OTHER_MODEL


def _disagreement(raw: Mapping[str, Any] | None, model: SentencePieceModel) -> tuple[list[str], float]:
    """The ordinary pieces that have another id in a tokenizer.json, or none, and what part of all they are."""
    vocab = (raw or {}).get("model")
    ids = vocab.get("vocab") if isinstance(vocab, dict) else None
    if isinstance(ids, list):  # of a unigram model: pairs of text and score
        ids = {pair[0]: index for index, pair in enumerate(ids) if isinstance(pair, list) and pair and _is_text(pair)}
    if not isinstance(ids, dict) or not ids:
        return [], 0.0
    ordinary = [(piece.text, index) for index, piece in enumerate(model.pieces) if piece.kind is TokenType.NORMAL]
    other = [text for text, index in ordinary if ids.get(text) != index]
    return other, len(other) / max(len(ordinary), 1)


def _is_text(pair: Sequence[object]) -> bool:
    return isinstance(pair[0], str)


def by_flag(token: AddedToken) -> Token:
    """Control tokens are those that a file calls special."""
    kind = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return Token(token.content, kind, ADDED_SCORE)


def by_look(token: AddedToken) -> Token:
    """Control tokens are also those that look like it; the others are matched in text, where spaces are spaces."""
    if token.special or looks_special(token.content):
        return Token(token.content, TokenType.CONTROL, ADDED_SCORE)
    return Token(token.content.replace(SPACE, " "), TokenType.USER_DEFINED, ADDED_SCORE)
