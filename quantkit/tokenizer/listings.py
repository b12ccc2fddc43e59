"""Every special or added token that any file of a checkpoint lists: where, under which id, of which kind.

Read here from the files themselves and apart from what writes them, so that a token that the writer overlooks is not
overlooked twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from quantkit.errors import InputError
from quantkit.records import record
from quantkit.tokenizer.files import ADDED_TOKENS, TOKENIZER_CONFIG, TOKENIZER_JSON, ReadFile, is_index, read_object

SPECIAL_MAP = "special_tokens_map.json"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
LIMIT = 1 << 22


@record
class Listed:
    """A token as one file lists it. `index` and `special` are None where the file does not say."""

    file: str
    text: str
    index: int | None
    special: bool | None
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


def listed_tokens(read_file: ReadFile, tokenizer_json: Mapping[str, Any] | None) -> tuple[Listed, ...]:
    """All entries, in the order of authority: tokenizer.json, `added_tokens_decoder` and names of
    tokenizer_config.json, added_tokens.json, special_tokens_map.json.

    Where tokenizer_config.json has an `added_tokens_decoder`, names of special_tokens_map.json add nothing to it, as in
    transformers. `tokenizer_json` is that file parsed, None where there is none. Entries that are no tokens are not
    judged here.
    """
    settings = read_object(read_file, TOKENIZER_CONFIG) or {}
    decoder = settings.get("added_tokens_decoder")
    with_ids = decoder.items() if isinstance(decoder, dict) else ()
    added = _readable(read_file, ADDED_TOKENS)
    entries = (tokenizer_json or {}).get("added_tokens")
    return (
        *_entries(TOKENIZER_JSON, ((e.get("id"), e) for e in _objects(entries))),
        *_entries(TOKENIZER_CONFIG, ((_number(key), e) for key, e in with_ids if isinstance(e, dict))),
        *_named(TOKENIZER_CONFIG, settings),
        *(Listed(ADDED_TOKENS, text, i, None) for text, i in added.items() if text and is_index(i, LIMIT)),
        *(() if isinstance(decoder, dict) else _named(SPECIAL_MAP, _readable(read_file, SPECIAL_MAP))),
    )


def _readable(read_file: ReadFile, name: str) -> Mapping[str, Any]:
    """A file that may say nothing of its own: {} where there is none, or one that cannot be read."""
    try:
        return read_object(read_file, name) or {}
    except InputError:
        return {}


def token_text(value: object) -> str | None:
    """The text of a token that a file gives as such, or as an object with flags; None for anything else."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _objects(entries: object) -> list[dict[str, Any]]:
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _number(key: str) -> int | None:
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 9 else None


def _entries(file: str, entries: Iterable[tuple[object, Mapping[str, Any]]]) -> Iterator[Listed]:
    for index, entry in entries:
        text = token_text(dict(entry))
        if text is None or not isinstance(index, int) or not is_index(index, LIMIT):
            continue
        special = entry.get("special") is True
        flags = {name: entry.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
        normalized = entry.get("normalized", not special) is True
        yield Listed(file, text, index, special, normalized=normalized, **flags)


def _named(file: str, found: Mapping[str, Any]) -> Iterator[Listed]:
    """Tokens by name (bos_token ...) and in lists, which say no id."""
    values: list[object] = [found.get(name) for name in NAMES]
    for name in LISTS:
        listed = found.get(name)
        values += list(listed.values()) if isinstance(listed, dict) else listed if isinstance(listed, list) else []
    for text in filter(None, map(token_text, values)):
        yield Listed(file, text, None, special=True)
