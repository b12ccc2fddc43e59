"""The tokenizer that is in a GGUF file, made from nothing but its `tokenizer.*` entries, by llama.cpp's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.encoders import Encoder, framed, load_sentencepiece
from quantkit.families.llama_cpp_tokens import FOUND_IN_TEXT, found_at_load
from quantkit.families.pretokenizer_table import LLAMA_CPP
from quantkit.families.sentencepiece_model import BPE, Piece, SentencePieceModel, encode_sentencepiece
from quantkit.families.tokenizer_files import is_index
from quantkit.families.vocabulary import TokenType
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer as LibraryPreTokenizer

PREFIX = "tokenizer.ggml."


def rebuild(metadata: Sequence[KeyValue], *, add_special: bool = True) -> Encoder:
    """The encoder that the `tokenizer.*` entries of a GGUF file describe, by llama.cpp's rules: special tokens are cut
    out of the text, longest first; `add_special` adds BOS and EOS as the entries say.

    "llama" vocabularies are encoded by sentencepiece, "gpt2" ones by tokenizers with the patterns of their
    pre-tokenizer. Raises InputError for entries that are missing or contradict each other, UnsupportedError for other
    vocabularies and for pre-tokenizers without patterns.
    """
    values = ggml_entries(metadata)
    tokens = [str(text) for text in _array(values, "tokens")]
    kinds = _token_types(values, len(tokens))
    model = values.get("model")
    if model == "llama":
        encode, bos, eos, adds_bos = _rebuild_spm(values, tokens, kinds), 1, 2, True
    elif model == "gpt2":
        encode, adds_bos = _rebuild_bpe(values, tokens)
        bos = eos = 11
    else:
        message = f'vocabulary model "{shown(str(model))}" cannot be rebuilt'
        raise UnsupportedError(message, key="tokenizer.ggml.model", hint="quantkit writes llama and gpt2 vocabularies")
    special = {**special_tokens(values), **changed_at_load(values)}
    first = [_index(values, "bos_token_id", bos)] if values.get("add_bos_token", adds_bos) else []
    last = [_index(values, "eos_token_id", eos)] if values.get("add_eos_token", False) else []
    encode = _cut_longest_first(special, encode)
    return framed(encode, first, last) if add_special else encode


def ggml_entries(metadata: Sequence[KeyValue]) -> dict[str, Any]:
    """The entries below tokenizer.ggml, by the rest of their key."""
    return {entry.key.removeprefix(PREFIX): entry.value for entry in metadata if entry.key.startswith(PREFIX)}


def special_tokens(values: Mapping[str, Any]) -> dict[str, int]:
    """The texts that llama.cpp looks for before it splits, with their ids. Raises InputError for broken entries."""
    tokens = [str(text) for text in _array(values, "tokens")]
    kinds = _token_types(values, len(tokens))
    pairs = enumerate(zip(tokens, kinds, strict=True))
    return {text: index for index, (text, kind) in pairs if kind in FOUND_IN_TEXT and text}


def changed_at_load(values: Mapping[str, Any]) -> dict[str, int]:
    """Ordinary tokens that llama.cpp looks for all the same. Raises InputError for broken entries."""
    tokens = [str(text) for text in _array(values, "tokens")]
    return found_at_load(tokens, _token_types(values, len(tokens)))


def _array(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise _contradiction(key, "missing")
    return [item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in found]


def _token_types(values: Mapping[str, Any], count: int) -> list[TokenType]:
    """The types of `count` tokens. Raises InputError where there are others, or none."""
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
    if len(scores) != len(tokens) or not all(isinstance(score, float | int) for score in scores):
        raise _contradiction("scores", f"{len(scores):,} numbers for {len(tokens):,} tokens")
    unknown = _index(values, "unknown_token_id", 0)
    pieces = []
    for index, (text, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        told = TokenType.CONTROL if kind is TokenType.UNKNOWN else kind  # sentencepiece wants exactly one unknown
        pieces.append(Piece(text, float(score), TokenType.UNKNOWN if index == unknown else told))
    prefix = values.get("add_space_prefix", True) is True
    model = SentencePieceModel(tuple(pieces), BPE, add_dummy_prefix=prefix, remove_extra_whitespaces=False)
    encode: Encoder = load_sentencepiece(encode_sentencepiece(model)).EncodeAsIds
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
    tokenizer.pre_tokenizer = cut_by(pre.patterns)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids, pre.adds_bos


def cut_by(patterns: Sequence[str]) -> LibraryPreTokenizer:
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
