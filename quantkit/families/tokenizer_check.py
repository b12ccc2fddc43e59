"""Does the vocabulary in a file split text as the source does? Asked without llama.cpp.

Two encoders are made and compared on 2,000 probes: one from the source's own files with the source's own library
(sentencepiece for a tokenizer.model, else tokenizers), and one from nothing but the `tokenizer.*` entries of the
written file, by llama.cpp's rules.

Both cut the text at special tokens first and encode what lies between by itself, as llama.cpp does. What this leaves
out is reported when the tokenizer is read: added tokens that take the spaces beside them, and tokenizers that put a
space before the first text only. Text that llama.cpp is known to split otherwise, whatever a file says, is left out
and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.pretokenizer_table import LLAMA_CPP, PreTokenizer
from quantkit.families.pretokenizers import recognize
from quantkit.families.probes import COUNT, probes
from quantkit.families.sentencepiece_model import (
    BPE,
    Piece,
    SentencePieceModel,
    encode_sentencepiece,
    is_tiktoken,
    parse_sentencepiece,
)
from quantkit.families.special_tokens import find_special_tokens
from quantkit.families.tokenizer_bpe import added_tokens, is_byte_level_class
from quantkit.families.tokenizer_files import (
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    AddedToken,
    BpeTokenizer,
    ReadFile,
    TokenizerFiles,
    is_index,
    parse_added,
    parse_tokenizer_json,
    read_bytes,
    read_object,
    read_settings_added,
    read_tokenizer_files,
)
from quantkit.families.tokenizer_spm import find_spaces
from quantkit.families.tokenizers_library import load_tokenizer_json
from quantkit.families.vocabulary import SPACE, TokenType
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer as LibraryPreTokenizer

Encoder = Callable[[str], list[int]]

MAX_OWN_SPECIAL = 64  # special tokens of a vocabulary that are put into probes
SPECIAL_KINDS = frozenset({TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN})


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
    source = _open(read_file, config)
    expected, found = _encoder(source, add_special=True), rebuild(metadata)
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
    return _comparable(metadata, _open(read_file, config))


def _comparable(metadata: Sequence[KeyValue], source: _Source) -> tuple[str, ...]:
    values = _values(metadata)
    tokens = _array(values, "tokens")
    kinds = _kinds(values, len(tokens))
    special = [str(t) for t, kind in zip(tokens, kinds, strict=True) if kind in SPECIAL_KINDS]
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
    source, llama_cpp = load_tokenizer_json(data).pre_tokenizer, _steps(pre.patterns)
    return lambda text: source.pre_tokenize_str(text) == llama_cpp.pre_tokenize_str(text)


# The source's own encoder


def source_encoder(read_file: ReadFile, config: Mapping[str, Any], *, add_special: bool = True) -> Encoder:
    """The ids that the source's tokenizer gives, special tokens in the text included; with `add_special` also the
    BOS and EOS that it adds by itself.

    sentencepiece is the truth for a tokenizer.model, the tokenizers library for a tokenizer.json. Raises InputError
    where there is neither, or where they cannot be loaded.
    """
    return _encoder(_open(read_file, config), add_special)


@dataclass(frozen=True)
class _Source:
    """The files that count: `pieces` of a tokenizer.model, or else a tokenizer.json as bytes, JSON and types."""

    files: TokenizerFiles
    pieces: bytes | None
    data: bytes | None
    raw: Mapping[str, Any] | None
    tokenizer: BpeTokenizer | None


def _open(read_file: ReadFile, config: Mapping[str, Any]) -> _Source:
    files = read_tokenizer_files(read_file, config)
    pieces = _sentencepiece_data(files)
    data, raw = read_bytes(read_file, TOKENIZER_JSON), read_object(read_file, TOKENIZER_JSON)
    if pieces is None and raw is None:
        message = f"no {TOKENIZER_MODEL} and no {TOKENIZER_JSON} to compare with"
        raise InputError(message, path=TOKENIZER_JSON, hint="verify against the checkpoint the file was made from")
    return _Source(files, pieces, data, raw, parse_tokenizer_json(raw) if raw is not None and pieces is None else None)


def _encoder(source: _Source, add_special: bool) -> Encoder:
    if source.pieces is not None:
        return _sentencepiece_source(source.pieces, source.raw, source.files, add_special)
    assert source.data is not None
    assert source.tokenizer is not None
    return _tokenizers_source(source.data, source.tokenizer, source, add_special)


def _sentencepiece_data(files: TokenizerFiles) -> bytes | None:
    """The bytes of a tokenizer.model, if it counts; None where tokenizer.json does."""
    data = read_bytes(files.read_file, TOKENIZER_MODEL)
    byte_level = is_byte_level_class(files.settings) and files.config.get("model_type") == "phi3"
    return None if data is None or is_tiktoken(data) or byte_level else data


def _sentencepiece_source(
    data: bytes, raw: Mapping[str, Any] | None, files: TokenizerFiles, add_special: bool
) -> Encoder:
    model = parse_sentencepiece(data)
    said = files.settings.get("add_prefix_space")
    if isinstance(said, bool) and said != model.add_dummy_prefix:
        data = encode_sentencepiece(replace(model, add_dummy_prefix=said))
    processor = _load_sentencepiece(data)
    cut = {p.text: i for i, p in enumerate(model.pieces) if p.kind in {TokenType.CONTROL, TokenType.UNKNOWN}}
    added = [AddedToken(index, text, special=False, normalized=False) for text, index in files.added.items()]
    for token in (*added, *read_settings_added(files.settings), *parse_added(raw)):
        known = model.pieces[token.index] if token.index < len(model.pieces) else None
        if token.index < (files.vocab_size or len(model.pieces)) and (
            token.special or known is None or known.text != token.content
        ):
            cut[token.content] = token.index
    special = find_special_tokens(raw, files.settings, files.root_config, files.vocab_size or len(model.pieces))
    first = [special.ids.get("bos", processor.bos_id())] if special.adds.get("bos", True) else []
    last = [special.ids.get("eos", processor.eos_id())] if special.adds.get("eos", False) else []
    return _framed(_between(cut, processor.EncodeAsIds), first, last, add_special)


def _tokenizers_source(data: bytes, tokenizer: BpeTokenizer, source: _Source, add_special: bool) -> Encoder:
    files = source.files
    added, _ = added_tokens(tokenizer, files)
    library = load_tokenizer_json(data, added[len(tokenizer.added) :])
    cut = {token.content: token.index for token in added}
    plain = library.encode("a", add_special_tokens=False).ids
    framed = library.encode("a", add_special_tokens=True).ids
    start = next(i for i in range(len(framed) + 1) if framed[i : i + len(plain)] == plain)
    first, last = framed[:start], framed[start + len(plain) :]
    if tokenizer.post_processor is None:
        count = len(tokenizer.vocab) + len(added)
        special = find_special_tokens(source.raw, files.settings, files.root_config, count)
        first = [special.ids["bos"]] if special.adds.get("bos") and "bos" in special.ids else []
        last = [special.ids["eos"]] if special.adds.get("eos") and "eos" in special.ids else []
    encode = _between(cut, lambda text: library.encode(text, add_special_tokens=False).ids)
    return _framed(encode, first, last, add_special)


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


def _framed(encode: Encoder, first: list[int], last: list[int], add_special: bool) -> Encoder:
    if not add_special:
        return encode
    return lambda text: [*first, *encode(text), *last]


def _load_sentencepiece(data: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        message = f"{TOKENIZER_MODEL}: sentencepiece rejects it: {shown(str(error))}"
        raise InputError(message, path=TOKENIZER_MODEL, hint="fetch the file again") from error
    return processor


# The encoder that is in the file


def rebuild(metadata: Sequence[KeyValue], *, add_special: bool = True) -> Encoder:
    """The encoder that the `tokenizer.*` entries of a GGUF file describe, by llama.cpp's rules: special tokens are cut
    out of the text, longest first; `add_special` adds BOS and EOS as the entries say.

    "llama" vocabularies are encoded by sentencepiece, "gpt2" ones by tokenizers with the patterns of their
    pre-tokenizer. Raises InputError for entries that are missing or contradict each other, UnsupportedError for other
    vocabularies and for pre-tokenizers without patterns.
    """
    values = _values(metadata)
    tokens = [str(text) for text in _array(values, "tokens")]
    kinds = _kinds(values, len(tokens))
    model = values.get("model")
    if model == "llama":
        encode, bos, eos, adds_bos = _rebuild_spm(values, tokens, kinds), 1, 2, True
    elif model == "gpt2":
        encode, adds_bos = _rebuild_bpe(values, tokens)
        bos = eos = 11
    else:
        message = f'vocabulary model "{shown(str(model))}" cannot be rebuilt'
        raise UnsupportedError(message, key="tokenizer.ggml.model", hint="quantkit writes llama and gpt2 vocabularies")
    special = {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in SPECIAL_KINDS}
    first = [_index(values, "bos_token_id", bos)] if values.get("add_bos_token", adds_bos) else []
    last = [_index(values, "eos_token_id", eos)] if values.get("add_eos_token", False) else []
    return _framed(_cut_longest_first(special, encode), first, last, add_special)


def _values(metadata: Sequence[KeyValue]) -> dict[str, Any]:
    """Entries below tokenizer.ggml by the rest of their key."""
    prefix = "tokenizer.ggml."
    return {entry.key.removeprefix(prefix): entry.value for entry in metadata if entry.key.startswith(prefix)}


def _array(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise _contradiction(key, "missing")
    return [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in found]


def _kinds(values: Mapping[str, Any], count: int) -> list[TokenType]:
    numbers = _array(values, "token_type")
    known = {int(kind): kind for kind in TokenType}
    if len(numbers) != count or not known.keys() >= set(numbers):
        raise _contradiction("token_type", f"{len(numbers):,} types from 1 to {len(known)} for {count:,} tokens")
    return [known[number] for number in numbers]


def _index(values: Mapping[str, Any], key: str, default: int) -> int:
    found = values.get(key, default)
    if not is_index(found, len(values["tokens"])):
        raise _contradiction(key, f"{shown(str(found))} is no token")
    return int(found)


def _contradiction(key: str, why: str) -> InputError:
    hint = "the file is damaged: convert again"
    return InputError(f"tokenizer.ggml.{key}: {why}", key=f"tokenizer.ggml.{key}", hint=hint)


def _rebuild_spm(values: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[TokenType]) -> Encoder:
    scores = _array(values, "scores")
    if len(scores) != len(tokens):
        raise _contradiction("scores", f"{len(scores):,} scores for {len(tokens):,} tokens")
    unknown = _index(values, "unknown_token_id", 0)
    pieces = []
    for index, (text, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        told = TokenType.CONTROL if kind is TokenType.UNKNOWN else kind  # sentencepiece wants exactly one unknown
        pieces.append(Piece(text, float(score), TokenType.UNKNOWN if index == unknown else told))
    prefix = values.get("add_space_prefix", True) is True
    model = SentencePieceModel(tuple(pieces), BPE, add_dummy_prefix=prefix, remove_extra_whitespaces=False)
    encode: Encoder = _load_sentencepiece(encode_sentencepiece(model)).EncodeAsIds
    return encode


def _rebuild_bpe(values: Mapping[str, Any], tokens: Sequence[str]) -> tuple[Encoder, bool]:
    """The encoder, and whether the pre-tokenizer adds a BOS unless told otherwise."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE as Merges

    name = str(values.get("pre"))
    pre = LLAMA_CPP.get(name)
    if pre is None or not pre.patterns:
        message = f'the pre-tokenizer "{shown(name)}" cannot be rebuilt'
        raise UnsupportedError(message, key="tokenizer.ggml.pre", hint="verify with --engine llama.cpp")
    vocab = {token: index for index, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for rank, merge in enumerate(_array(values, "merges")):
        left, _, right = str(merge).partition(" ")
        if not {left, right, left + right} <= vocab.keys():
            raise _contradiction("merges", f"merge {rank} is {shown(str(merge))}, expected two tokens")
        merges.append((left, right))
    tokenizer = Tokenizer(Merges(vocab, merges, ignore_merges=pre.whole_words))
    tokenizer.pre_tokenizer = _steps(pre.patterns)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids, pre.adds_bos


def _steps(patterns: Sequence[str]) -> LibraryPreTokenizer:
    """llama.cpp's patterns as a pre-tokenizer of the tokenizers library."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    split = [Split(Regex(pattern), "isolated") for pattern in patterns]
    return Sequence([*split, ByteLevel(add_prefix_space=False, use_regex=False)])


def _cut_longest_first(special: Mapping[str, int], encode: Encoder) -> Encoder:
    """llama.cpp's order: all places of the longest special token first, then of the next."""
    order = sorted(special, key=lambda text: len(text.encode()), reverse=True)

    def encode_all(text: str) -> list[int]:
        parts: list[str | int] = [text]
        for token in order:
            if token in text:
                parts = [piece for part in parts for piece in _cut(part, token, special[token])]
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else encode(part) if part else []
        return ids

    return encode_all


def _cut(part: str | int, token: str, index: int) -> Iterable[str | int]:
    if isinstance(part, int):
        return [part]
    texts = part.split(token)
    return [piece for text in texts for piece in (text, index)][:-1]
