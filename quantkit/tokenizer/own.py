"""The source's own tokenizer: sentencepiece for a tokenizer.model, the tokenizers library for a tokenizer.json.

A tokenizer.json is the library's own format: whole texts go through it as they are, special tokens and their flags
included. sentencepiece knows no added tokens: text is cut at them, and what lies between is encoded by itself, as
transformers does. Nothing here is shared with what writes a tokenizer but the reading of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError
from quantkit.families.known import vocabulary_size
from quantkit.records import record
from quantkit.tokenizer.files import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    ReadFile,
    TokenizerFiles,
    model_kind,
    read_bytes,
    read_object,
    read_tokenizer_files,
)
from quantkit.tokenizer.libraries import (
    BatchEncoder,
    Encoder,
    Finder,
    by_library,
    by_sentencepiece,
    cut_before,
    load_sentencepiece,
    load_tokenizer_json,
    one_by_one,
)
from quantkit.tokenizer.listings import Listed, listed_tokens, token_text
from quantkit.tokenizer.native import no_panic
from quantkit.tokenizer.own_slow import dumped, tokenizer_json_of
from quantkit.tokenizer.plamo import LINES, best_sum, read_lines
from quantkit.tokenizer.rwkv import END, WORLD, longest_first, read_world, spelled
from quantkit.tokenizer.sentencepiece_model import (
    SentencePieceModel,
    encode_sentencepiece,
    is_tiktoken,
    loadable,
    parse_sentencepiece,
)
from quantkit.tokenizer.sources import open_tokenizer_json
from quantkit.tokenizer.vocabulary import SPACE, Token, TokenType
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE, SAMPLE_ID = "a", (1 << 32) - 1  # any text; shows what the post-processor puts before and after it


@record
class SourceTokenizer:
    """A source's tokenizer, loaded by the library of its format.

    `vocabulary` is the text of every id as the files spell it. `encode` gives the ids of texts, special tokens in
    them found, without `first` and `last`, which the tokenizer puts around a text by itself. `listed` are the special
    and added tokens of all files, `ids` the ids of their texts, `contradicted` texts for which files disagree.
    `normal` says whether the tokenizer leaves a text as it is before splitting; `raw` is tokenizer.json where that
    counts, `library` its loaded form.
    """

    files: TokenizerFiles
    vocabulary: Mapping[int, str]
    encode: BatchEncoder
    first: tuple[int, ...]
    last: tuple[int, ...]
    listed: tuple[Listed, ...]
    ids: Mapping[str, int]
    contradicted: frozenset[str]
    normal: Callable[[str], bool]
    raw: Mapping[str, Any] | None = None
    library: Tokenizer | None = None

    @cached_property
    def listed_texts(self) -> Mapping[str, None]:
        """The texts of `listed`, each once."""
        return dict.fromkeys(token.text for token in self.listed)

    @cached_property
    def in_order(self) -> tuple[str, ...]:
        """The texts of `vocabulary` in the order of their ids."""
        return tuple(self.vocabulary[index] for index in sorted(self.vocabulary))

    @cached_property
    def prefixes(self) -> bool:
        """Whether a space is put before text."""
        ids = self.encode([SAMPLE])[0]
        return bool(ids) and self.vocabulary.get(ids[0], "").startswith(SPACE)

    @property
    def kind(self) -> str:
        """The kind of model: "BPE", "WordPiece", "Unigram"; "" where it is a tokenizer.model."""
        return (model_kind(self.raw) or "") if self.raw is not None else ""

    @property
    def byte_level(self) -> bool:
        """Whether the vocabulary spells bytes, not characters."""
        return self.kind == "BPE" and ((self.raw or {}).get("model") or {}).get("byte_fallback") is not True

    def encoder(self, *, add_special: bool = True) -> Encoder:
        """The ids of a text, special tokens in it included; with `add_special` also `first` and `last`."""
        return one_by_one(self.encode, self.first, self.last) if add_special else one_by_one(self.encode)


def open_source_tokenizer(read_file: ReadFile, config: Mapping[str, Any]) -> SourceTokenizer:
    """Load the tokenizer of a checkpoint, which takes a second for 150,000 tokens.

    sentencepiece is the truth for a tokenizer.model, the tokenizers library for a tokenizer.json. Raises InputError
    where there is neither, or where they cannot be loaded.
    """
    files = read_tokenizer_files(read_file, config, vocabulary_size(config))
    pieces = _sentencepiece_data(files)
    raw = read_object(read_file, TOKENIZER_JSON)
    world = read_world(files) if pieces is None and raw is None else None
    if world is not None:
        return _from_world(world, files)
    lines = read_lines(files) if pieces is None and raw is None else None
    if lines is not None:
        return _from_lines(lines, files)
    if pieces is not None:
        return _from_pieces(pieces, raw, files)
    if raw is not None:
        return _from_json(read_bytes(read_file, TOKENIZER_JSON) or b"", raw, files)
    slow = tokenizer_json_of(files)
    if slow is not None:
        return _from_json(dumped(slow), slow, files)
    made = open_tokenizer_json(files)  # tekken.json is no library's format that could be asked instead
    if made is None:
        raise _no_files(read_file)
    return _from_json(made.data, made.raw, made.files)


def _sentencepiece_data(files: TokenizerFiles) -> bytes | None:
    """The bytes of a tokenizer.model, if it counts; None where tokenizer.json does."""
    data = read_bytes(files.read_file, TOKENIZER_MODEL)
    byte_level = files.settings.get("tokenizer_class") in ("GPT2Tokenizer", "GPT2TokenizerFast")
    phi4 = byte_level and files.config.get("model_type") == "phi3"
    return None if data is None or is_tiktoken(data) or phi4 else data


def _no_files(read_file: ReadFile) -> InputError:
    there = [name for name in ("vocab.json", "merges.txt", "vocab.txt") if read_file(name) is not None]
    if there:
        what = f"{' and '.join(there)} alone, which do not say how text is split"
        message = f"this folder has no {TOKENIZER_MODEL} and no {TOKENIZER_JSON} but {what}"
    else:
        message = f"this folder has no tokenizer files: no {TOKENIZER_MODEL} and no {TOKENIZER_JSON}"
    hint = "copy the tokenizer files of the original model into the folder"
    return InputError(message, path=TOKENIZER_JSON, hint=hint)


def _from_pieces(data: bytes, raw: Mapping[str, Any] | None, files: TokenizerFiles) -> SourceTokenizer:
    model = parse_sentencepiece(data)
    rows = files.vocab_size or len(model.pieces)
    _require_rows(model, rows)
    said = files.settings.get("add_prefix_space")
    prefix = said if isinstance(said, bool) else model.add_dummy_prefix
    asked = replace(model, add_dummy_prefix=prefix, pieces=model.pieces[:rows])  # no model makes more than its rows
    if asked != model:
        model, data = asked, encode_sentencepiece(asked)
    processor = load_sentencepiece(loadable(data, model))
    listed = (*listed_tokens(files.read_file, raw), *_listed_pieces(model))
    vocabulary = {index: piece.text for index, piece in enumerate(model.pieces)}
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    contradicted = set()
    owners: dict[int, str] = {}
    for token in listed:
        if token.index is None:
            continue
        if ids.setdefault(token.text, token.index) != token.index:
            contradicted.add(token.text)
        elif owners.setdefault(token.index, token.text) != token.text:
            contradicted.update((token.text, owners[token.index]))
        elif token.index < rows:
            vocabulary[token.index] = token.text
    _number_the_rest(listed, ids, len(model.pieces), owners)
    cut = {token.text: ids[token.text] for token in listed if ids.get(token.text, rows) < rows and _is_cut(token)}

    def normal(text: str) -> bool:
        return bool(_spaced(processor.Normalize(text)) == _spaced(text))

    first, last = _around_pieces(raw, files.settings, ids, processor)
    encode = cut_before(Finder(cut).cut, by_sentencepiece(processor))
    return SourceTokenizer(files, vocabulary, encode, first, last, listed, ids, frozenset(contradicted), normal)


def _from_world(tokens: Sequence[bytes], files: TokenizerFiles) -> SourceTokenizer:
    """RWKV's vocabulary, whose token 0 begins and ends a text whatever config.json says: its numbers are those of the
    class that wrote it."""
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    files = replace(files, config={**files.config, **ends}, root_config={**files.root_config, **ends})
    vocabulary = {0: END, **{index: spelled(token) for index, token in enumerate(tokens, 1)}}
    encode = longest_first({token: index for index, token in enumerate(tokens, 1)})
    cut = cut_before(Finder({END: 0}).cut, encode)
    listed = (Listed(WORLD, END, 0, True),)
    return SourceTokenizer(files, vocabulary, cut, (), (), listed, {END: 0}, frozenset(), lambda text: True)


def _from_lines(tokens: Sequence[Token], files: TokenizerFiles) -> SourceTokenizer:
    """PLaMo's vocabulary, whose control tokens are found in text; none stands around it unless the settings say so."""
    ids = {token.text: index for index, token in enumerate(tokens)}
    special = {t.text: ids[t.text] for t in tokens if t.kind in (TokenType.CONTROL, TokenType.UNKNOWN)}
    encode = cut_before(Finder(special).cut, best_sum(tokens))
    listed = tuple(Listed(LINES, text, index, True) for text, index in special.items())
    first, last = (
        _named(kind, files.settings, ids, "", -1) if files.settings.get(f"add_{kind}_token") is True else ()
        for kind in ("bos", "eos")
    )
    vocabulary = {index: token.text for index, token in enumerate(tokens)}
    return SourceTokenizer(files, vocabulary, encode, first, last, listed, special, frozenset(), lambda text: True)


def _require_rows(model: SentencePieceModel, rows: int) -> None:
    """Raise InputError where text may become a piece that the embedding has no row for."""
    beyond = [piece.text for piece in model.pieces[rows:] if piece.kind in (TokenType.NORMAL, TokenType.BYTE)]
    if beyond:
        what = f'{len(model.pieces):,} pieces, the embedding has {rows:,} rows: none for "{shown(beyond[0])}"'
        hint = "the tokenizer files and the weights are not of the same model"
        raise InputError(f"{TOKENIZER_MODEL} has {what}", path=TOKENIZER_MODEL, key="vocab_size", hint=hint)


def _number_the_rest(listed: Iterable[Listed], ids: dict[str, int], pieces: int, owners: Mapping[int, str]) -> None:
    """Special tokens that no file gives an id get the next ones, as transformers adds them."""
    following = max([pieces, *(index + 1 for index in owners)])
    for token in listed:
        if token.text not in ids:
            ids[token.text] = following
            following += 1


def _listed_pieces(model: SentencePieceModel) -> Iterator[Listed]:
    """Pieces that are found in text as they are, or never."""
    kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    for index, piece in enumerate(model.pieces):
        if piece.kind in kinds:
            yield Listed(TOKENIZER_MODEL, piece.text, index, kinds[piece.kind])


def _is_cut(token: Listed) -> bool:
    # Runs of spaces are pieces of the model as well, which finds them where the text has plain spaces.
    return token.text.strip(f" {SPACE}") != ""


def _spaced(text: str) -> str:
    return text.replace(SPACE, " ").strip(" ")


def _around_pieces(
    raw: Mapping[str, Any] | None, settings: Mapping[str, Any], ids: Mapping[str, int], processor: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is put before and after a text: as the post-processor of a tokenizer.json says, else the settings."""
    section = (raw or {}).get("post_processor")
    if section is not None:
        model = {"type": "WordLevel", "vocab": {SAMPLE: SAMPLE_ID}, "unk_token": SAMPLE}
        small = load_tokenizer_json(json.dumps({"version": "1.0", "model": model, "post_processor": section}).encode())
        with no_panic(TOKENIZER_JSON):
            return _around(small.encode(SAMPLE, add_special_tokens=True).ids, [SAMPLE_ID])
    first = (
        _named("bos", settings, ids, "<s>", processor.bos_id()) if settings.get("add_bos_token") is not False else ()
    )
    last = _named("eos", settings, ids, "</s>", processor.eos_id()) if settings.get("add_eos_token") is True else ()
    return first, last


def _named(kind: str, settings: Mapping[str, Any], ids: Mapping[str, int], usual: str, control: int) -> tuple[int, ...]:
    """The id of BOS or EOS: of the token that the settings name, else the library's. That has none (-1) for an ordinary
    piece of the `usual` name, which transformers takes.
    """
    index = ids.get(token_text(settings.get(f"{kind}_token")) or "")
    if index is None:
        index = control if control >= 0 else ids.get(usual)
    return () if index is None else (index,)


def _around(whole: Sequence[int], plain: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for at in range(len(whole)):
        if plain and list(whole[at : at + len(plain)]) == list(plain):
            return tuple(whole[:at]), tuple(whole[at + len(plain) :])
    return (), ()


def _from_json(data: bytes, raw: Mapping[str, Any], files: TokenizerFiles) -> SourceTokenizer:
    from tokenizers import AddedToken

    listed = listed_tokens(files.read_file, raw)
    own = {token.text for token in listed if token.file == TOKENIZER_JSON}
    rest = [token for token in listed if token.text not in own]
    with_id = sorted((t for t in rest if t.index is not None), key=lambda t: (t.file != TOKENIZER_CONFIG, t.index))
    more = {token.text: token for token in (*with_id, *(t for t in rest if t.index is None))}
    added = [AddedToken(t.text, special=bool(t.special), normalized=t.normalized) for t in more.values()]
    library = load_tokenizer_json(data, added)
    ids = library.get_vocab(with_added_tokens=True)
    contradicted = frozenset(t.text for t in listed if t.index is not None and ids.get(t.text) != t.index)
    vocabulary = {index: text for text, index in ids.items()}
    normalizer, section = library.normalizer, raw.get("post_processor")

    def normal(text: str) -> bool:
        return normalizer is None or _spaced(normalizer.normalize_str(text)) == _spaced(text)

    encode = by_library(library)
    if section is None:
        first, last = (_placed(kind, files.settings, ids) for kind in ("bos", "eos"))
    else:
        with no_panic(TOKENIZER_JSON):
            first, last = _around(library.encode(SAMPLE, add_special_tokens=True).ids, encode([SAMPLE])[0])
    return SourceTokenizer(files, vocabulary, encode, first, last, listed, ids, contradicted, normal, raw, library)


def _placed(kind: str, settings: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[int, ...]:
    index = ids.get(token_text(settings.get(f"{kind}_token")) or "")
    return (index,) if settings.get(f"add_{kind}_token") is True and index is not None else ()
