"""The tokenizer files of a Hugging Face checkpoint, bounded, checked and parsed into types.

`tokenizer.json` is the serialization of the `tokenizers` library (its BPE model only), `tokenizer_config.json`,
`added_tokens.json` and `config.json` are written by transformers. Nothing here knows a container or runs a
tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.records import record
from quantkit.untrusted import parse_json_object, shown

ReadFile = Callable[[str], bytes | None]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_MODEL = "tokenizer.model"
TEKKEN = "tekken.json"
SPECIAL_MAP = "special_tokens_map.json"

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")

MAX_FILE_BYTES = 256 << 20
MAX_VALUES = 1 << 23  # JSON values of a tokenizer.json; 262,144 tokens with 514,906 merges have 2.1 million
MAX_TOKENS = 1 << 22  # the largest vocabularies have some 300,000; a padded one is built in memory
MAX_TOKEN_CHARACTERS = 1 << 16
HINT = "fetch the tokenizer files again, or save the tokenizer again with transformers"


@record
class AddedToken:
    """A token that is matched in the text before anything is split. The flags are those of `tokenizers.AddedToken`."""

    index: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@record
class BpeTokenizer:
    """A tokenizer.json whose model is BPE.

    `merges` are in order of rank. `joined_merges` says that the file writes a merge as one string "a b" rather than
    as a pair. `added` has the ids that the tokenizers library gives, and `warnings` say where the file has others.
    The other sections stay as JSON: what they mean is decided where they are used.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    joined_merges: bool
    added: tuple[AddedToken, ...]
    byte_fallback: bool
    ignore_merges: bool
    normalizer: Json
    pre_tokenizer: Json
    post_processor: Json
    decoder: Json
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def merge_lines(self) -> tuple[str, ...]:
        """Merges as llama.cpp wants them, "a b"; a space inside a part becomes U+0120."""
        if self.joined_merges:
            return tuple(f"{left} {right}" for left, right in self.merges)
        return tuple(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in self.merges)


@record
class TokenizerFiles:
    """What a checkpoint says of its tokenizer, but for the vocabulary itself.

    `settings` is tokenizer_config.json, {} where there is none.
    `config` is config.json with a nested `text_config` laid over it; `root_config` is config.json as it is.
    `vocab_size` is the number of rows of the embedding; None where config.json does not say and nothing is known.
    """

    read_file: ReadFile
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    root_config: Mapping[str, Any]
    vocab_size: int | None

    @cached_property
    def added(self) -> Mapping[str, int]:
        """added_tokens.json (content -> id), {} where there is none. Read where it counts, judged there."""
        return _added_tokens_json(read_object(self.read_file, ADDED_TOKENS) or {})

    @cached_property
    def special_map(self) -> Mapping[str, Any]:
        """special_tokens_map.json, {} where there is none that can be read: it seldom says what no other file does."""
        try:
            return read_object(self.read_file, SPECIAL_MAP) or {}
        except InputError:
            return {}


def read_tokenizer_files(read_file: ReadFile, config: Mapping[str, Any], size: Any) -> TokenizerFiles:
    """Read and check the small files. `config` is the parsed config.json, `size` its vocab_size or the default of its
    model, None where unknown. Raises InputError naming file and key.
    """
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, Mapping) else dict(config)
    if size is not None and not is_index(size, MAX_TOKENS + 1):
        message = f"config.json: vocab_size is {shown(str(size))}, expected a number of tokens up to {MAX_TOKENS:,}"
        raise InputError(message, path="config.json", key="vocab_size", hint="check config.json")
    return TokenizerFiles(
        read_file=read_file,
        settings=read_object(read_file, TOKENIZER_CONFIG) or {},
        config=merged,
        root_config=config,
        vocab_size=size,
    )


def read_bytes(read_file: ReadFile, name: str) -> bytes | None:
    """The bytes of a file, None where there is none. Raises InputError for one of more than 256 MB."""
    data = read_file(name)
    if data is not None and len(data) > MAX_FILE_BYTES:
        message = f"{name} has {len(data):,} bytes, at most {MAX_FILE_BYTES:,} are read"
        raise InputError(message, path=name, hint="this is not the file it is named after")
    return data


def read_text(read_file: ReadFile, name: str) -> str | None:
    """The text of a UTF-8 file, with "\\n" for "\\r\\n" as Python's text mode reads it; None where there is none."""
    data = read_bytes(read_file, name)
    if data is None:
        return None
    try:
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        message = f"{name}: not UTF-8 at byte {error.start:,}"
        raise InputError(message, path=name, hint="the file is damaged: fetch it again") from error


def read_object(read_file: ReadFile, name: str) -> dict[str, Any] | None:
    """A JSON file whose top level is an object; None where there is none. Raises InputError for anything else."""
    data = read_bytes(read_file, name)
    if data is None:
        return None
    return parse_json_object(data, Path(name), values=MAX_VALUES, pairs=unique_keys(name))


def unique_keys(name: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A builder of JSON objects that refuses keys that occur twice; the InputError names the file and the key."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            [twice] = [key for key, count in Counter(key for key, _ in pairs).most_common(1) if count > 1]
            message = f'{name}: "{shown(twice)}" occurs twice in one object'
            raise InputError(message, path=name, key=shown(twice), hint=HINT)
        return found

    return build


def is_index(value: object, limit: int) -> bool:
    """Whether a JSON value is an integer in [0, limit)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def bad(name: str, key: str, found: object, expected: str) -> InputError:
    """The error for a value of a tokenizer file that is not what it has to be."""
    message = f"{name}: {key} is {shown(str(found))}, expected {expected}"
    return InputError(message, path=name, key=key, hint=HINT)


def _added_tokens_json(found: Mapping[str, Any]) -> dict[str, int]:
    for content, index in found.items():
        if not is_index(index, MAX_TOKENS):
            raise bad(ADDED_TOKENS, f'"{shown(content)}"', index, f"a token id below {MAX_TOKENS:,}")
    return dict(found)


def _check_distinct(name: str, vocab: Mapping[str, int]) -> None:
    if len(set(vocab.values())) == len(vocab):
        return
    owner: dict[int, str] = {}
    for token, index in vocab.items():
        if index in owner:
            message = f'{name}: "{shown(owner[index])}" and "{shown(token)}" both have id {index}'
            raise InputError(message, path=name, key=shown(token), hint=HINT)
        owner[index] = token


def read_settings_added(settings: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """`added_tokens_decoder` of tokenizer_config.json, in its order. Raises InputError naming the entry."""
    decoder = settings.get("added_tokens_decoder")
    if decoder is None:
        return ()
    if not isinstance(decoder, dict):
        raise bad(TOKENIZER_CONFIG, "added_tokens_decoder", type(decoder).__name__, "an object")
    tokens = []
    for index, entry in decoder.items():
        key = f"added_tokens_decoder.{shown(index)}"
        if not index.isascii() or not index.isdecimal() or len(index) > len(str(MAX_TOKENS)):
            raise bad(TOKENIZER_CONFIG, key, index, "a token id as key")
        tokens.append(_added_token(TOKENIZER_CONFIG, key, int(index), entry))
    return tuple(tokens)


def named_tokens(files: TokenizerFiles) -> tuple[AddedToken, ...]:
    """Special tokens by name (bos_token ...) and in lists; their ids are unknown (-1). What is no text is no token.

    Those of tokenizer_config.json and, where it has no added_tokens_decoder (as transformers before 4.34 wrote it) and
    does not say, those of special_tokens_map.json.
    """
    values = files.settings
    if not isinstance(values.get("added_tokens_decoder"), dict):
        values = {**files.special_map, **values}
    found = [values.get(name) for name in NAMED_TOKENS]
    for name in TOKEN_LISTS:
        listed = values.get(name)
        found += list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    texts = [token_text(value) for value in found]
    return tuple(AddedToken(-1, text, special=True, normalized=False) for text in texts if text)


def token_text(value: object) -> str | None:
    """The text of a token written as text or as an object with its flags; None for anything else."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and 0 < len(text) <= MAX_TOKEN_CHARACTERS and _is_unicode(text) else None


def _added_token(name: str, key: str, index: object, entry: object) -> AddedToken:
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise bad(name, key, entry, "an object with the token's content")
    content = entry["content"]
    if not is_index(index, MAX_TOKENS) or not isinstance(index, int):
        raise bad(name, f'{key} ("{shown(content)}")', index, f"a token id below {MAX_TOKENS:,}")
    _check_token(name, key, content)
    return AddedToken(
        index=index,
        content=content,
        special=entry.get("special") is True,
        normalized=entry.get("normalized", not entry.get("special")) is True,
        lstrip=entry.get("lstrip") is True,
        rstrip=entry.get("rstrip") is True,
        single_word=entry.get("single_word") is True,
    )


def _check_token(name: str, key: str, token: str) -> None:
    if not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
        raise bad(name, key, f"{len(token):,} characters long", f"a token of at most {MAX_TOKEN_CHARACTERS:,}")
    if not _is_unicode(token):
        raise bad(name, key, token, "Unicode text without lone surrogates")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def parse_tokenizer_json(raw: Mapping[str, Any]) -> BpeTokenizer:
    """Check a parsed tokenizer.json and give it types.

    Raises UnsupportedError for a model that is not BPE, InputError naming the key for broken vocabularies: ids that
    are not distinct or too large, merges of unknown tokens, added tokens that contradict the vocabulary.
    """
    model = raw.get("model")
    if not isinstance(model, dict):
        raise bad(TOKENIZER_JSON, "model", type(model).__name__, "an object")
    vocab = model.get("vocab")
    kind = model_kind(raw)
    if kind != "BPE":
        message = f'{TOKENIZER_JSON}: model.type is "{shown(str(kind))}"; only BPE tokenizers can be written'
        raise UnsupportedError(message, path=TOKENIZER_JSON, key="model.type", hint="is this a text model of a family?")
    _check_plain_bpe(model)
    vocab = checked_vocab(vocab)
    merges, joined = _merges(model.get("merges"), vocab)
    added, warnings = numbered(parse_added(raw), vocab)
    return BpeTokenizer(
        vocab=vocab,
        merges=merges,
        joined_merges=joined,
        added=added,
        byte_fallback=model.get("byte_fallback") is True,
        ignore_merges=model.get("ignore_merges") is True,
        normalizer=raw.get("normalizer"),
        pre_tokenizer=raw.get("pre_tokenizer"),
        post_processor=raw.get("post_processor"),
        decoder=raw.get("decoder"),
        warnings=warnings,
    )


def model_kind(raw: Mapping[str, Any]) -> str | None:
    """The kind of model of a parsed tokenizer.json ("BPE", "WordPiece", "Unigram"); None where it does not say."""
    model = raw.get("model")
    if not isinstance(model, dict):
        return None
    kind = model.get("type", "BPE" if "merges" in model else None)
    return kind if isinstance(kind, str) or kind is None else str(kind)


def _check_plain_bpe(model: Mapping[str, Any]) -> None:
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            message = f"{TOKENIZER_JSON}: model.{option} is {shown(str(model[option]))}; llama.cpp has no such option"
            raise UnsupportedError(message, path=TOKENIZER_JSON, key=f"model.{option}", hint="it cannot be written")


def checked_vocab(vocab: object) -> dict[str, int]:
    """The vocabulary of a tokenizer.json. Raises InputError for one that is none, or has an id twice."""
    if not isinstance(vocab, dict) or not 0 < len(vocab) <= MAX_TOKENS:
        found = f"{len(vocab):,} entries" if isinstance(vocab, dict) else type(vocab).__name__
        raise bad(TOKENIZER_JSON, "model.vocab", found, f"an object of at most {MAX_TOKENS:,} tokens")
    if not (set(map(type, vocab.values())) == {int} and 0 <= min(vocab.values()) <= max(vocab.values()) < MAX_TOKENS):
        token, index = next((t, i) for t, i in vocab.items() if not is_index(i, MAX_TOKENS))
        raise bad(TOKENIZER_JSON, f'model.vocab["{shown(token)}"]', index, f"a token id below {MAX_TOKENS:,}")
    for token in vocab:
        _check_token(TOKENIZER_JSON, "a token of model.vocab", token)
    _check_distinct(TOKENIZER_JSON, vocab)
    return vocab


def _merges(merges: object, vocab: Mapping[str, int]) -> tuple[tuple[tuple[str, str], ...], bool]:
    if not isinstance(merges, list):
        raise bad(TOKENIZER_JSON, "model.merges", type(merges).__name__, "a list")
    joined = bool(merges) and isinstance(merges[0], str)
    pairs = []
    for rank, merge in enumerate(merges):
        parts = merge.split(" ") if joined and isinstance(merge, str) else merge
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            raise bad(TOKENIZER_JSON, f"model.merges[{rank}]", merge, "two tokens")
        left, right = parts
        if left not in vocab or right not in vocab or left + right not in vocab:
            unknown = next(token for token in (left, right, left + right) if token not in vocab)
            expected = f'tokens of the vocabulary ("{shown(unknown)}" is not)'
            raise bad(TOKENIZER_JSON, f"model.merges[{rank}]", merge, expected)
        pairs.append((left, right))
    return tuple(pairs), joined


def parse_added(raw: Mapping[str, Any] | None) -> tuple[AddedToken, ...]:
    """The `added_tokens` of a parsed tokenizer.json that lies beside a tokenizer.model; () where there is none."""
    entries = (raw or {}).get("added_tokens")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise bad(TOKENIZER_JSON, "added_tokens", type(entries).__name__, "a list")
    tokens = []
    for position, entry in enumerate(entries):
        index = entry.get("id") if isinstance(entry, dict) else None
        tokens.append(_added_token(TOKENIZER_JSON, f"added_tokens[{position}]", index, entry))
    return tuple(tokens)


def numbered(
    tokens: Sequence[AddedToken], vocab: Mapping[str, int]
) -> tuple[tuple[AddedToken, ...], tuple[tuple[str, str], ...]]:
    """The added tokens under the ids that the tokenizers library gives them, and what the file says otherwise.

    The library looks a token up in the vocabulary and numbers the others in turn, in the order of the list and
    whatever their "id" says; a token listed twice is one. Where the ids of the vocabulary have gaps, the number may be
    that of another token; then the file's "id" counts. Raises InputError where two texts get one id.
    """
    found: dict[str, AddedToken] = {}
    following, taken = len(vocab), set(vocab.values())
    other = []
    for token in tokens:
        known = found[token.content].index if token.content in found else vocab.get(token.content, following)
        if known == following and known in taken and token.content not in vocab:
            known = token.index
        if token.index != known:
            other.append(f'"{shown(token.content)}" has id {known}, not {token.index}')
        found.setdefault(token.content, replace(token, index=known))
        following = max(following, known + 1)
    ids = {content: token.index for content, token in found.items()}
    _check_distinct(TOKENIZER_JSON, {**vocab, **ids})
    more = f" and {len(other) - 1:,} more" if len(other) > 1 else ""
    message = f"{TOKENIZER_JSON} numbers added tokens otherwise than the tokenizers library, which counts: "
    warnings = (("tokenizer-ids", f"{message}{other[0]}{more}"),) if other else ()
    return tuple(found.values()), warnings
