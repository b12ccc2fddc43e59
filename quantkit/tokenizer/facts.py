"""Are tokens, special ids and chat template of a file the source's? Compared entry by entry, without encoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantkit.tokenizer.bpe import byte_level_decoded
from quantkit.tokenizer.chat_template import TEMPLATE_FILE, TEMPLATE_JSON
from quantkit.tokenizer.files import ReadFile, is_index, read_object, read_text
from quantkit.tokenizer.gemma4 import BREAK, GEMMA4, SHOWN
from quantkit.tokenizer.listings import Listed, token_text
from quantkit.tokenizer.llama_cpp_tokens import ENDS
from quantkit.tokenizer.own import SourceTokenizer
from quantkit.tokenizer.rebuilt import Artifact
from quantkit.tokenizer.vocabulary import SPACE, TokenType, looks_special
from quantkit.untrusted import shown

ID_NAMES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
STRICT = frozenset({"bos", "eos"})
CONTROL = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})
WORDS = {kind: kind.name.lower().replace("_", "-") for kind in TokenType}


def token_problems(source: SourceTokenizer, artifact: Artifact) -> Iterator[str]:
    """Tokens whose text or kind in the file is not what the source's files say."""
    rows = len(artifact.tokens)
    listed: dict[str, list[Listed]] = {}
    for token in source.listed:
        listed.setdefault(token.text, []).append(token)
    missing = [index for index in source.vocabulary if index >= rows and source.vocabulary[index] not in listed]
    if missing:
        yield f"{len(missing):,} tokens of the source are beyond the {rows:,} of the file"
    for index, text in source.vocabulary.items():
        if index >= rows or artifact.tokens[index] == text or text in listed:
            continue
        if artifact.tokens[index] not in _spellings(text, source):
            yield f'token {index} is "{shown(artifact.tokens[index])}", the source has "{shown(text)}"'
    gemma4 = artifact.values.get("model") == GEMMA4
    merged = _merged(source, BREAK if gemma4 else "")
    shown_too: frozenset[str] = SHOWN if gemma4 else frozenset()
    for text, entries in listed.items():
        place = _place(text, entries, source, artifact)
        if place is None or place >= rows:
            continue
        index = place
        where = f'"{shown(text)}" of {entries[0].file}'
        if artifact.tokens[index] not in _spellings(text, source):
            yield f'token {index}, {where}, is "{shown(artifact.tokens[index])}" in the file'
        elif artifact.kinds[index] not in (allowed := _kinds(text, entries, shown_too)) and text not in merged:
            meant = " or ".join(sorted(WORDS[kind] for kind in allowed))
            yield f"token {index}, {where}, is {WORDS[artifact.kinds[index]]} in the file, expected {meant}"


def _place(text: str, entries: Sequence[Listed], source: SourceTokenizer, artifact: Artifact) -> int | None:
    """Where a token has to be. Where files disagree, any place that one of them gives will do."""
    said = [entry.index for entry in entries if entry.index is not None]
    places = [index for index in (source.ids.get(text), *said) if index is not None]
    fitting = (i for i in places if i < len(artifact.tokens) and artifact.tokens[i] in _spellings(text, source))
    return next(fitting, places[0] if places else None)


def _spellings(text: str, source: SourceTokenizer) -> set[str]:
    """A token's text as a file may hold it: llama.cpp looks for added tokens in plain text, not in pieces."""
    if source.kind == "WordPiece":
        from quantkit.tokenizer.wordpiece import phantom

        return {text, phantom(text)} if text in source.listed_texts else {phantom(text)}
    if not source.byte_level:
        return {text, text.replace(SPACE, " ")}
    return {text, byte_level_decoded(text), text.replace(SPACE, " ")} if text in source.listed_texts else {text}


def _kinds(text: str, entries: Sequence[Listed], shown_too: frozenset[str]) -> frozenset[TokenType]:
    """The kinds that a token may have; the special ones of `shown_too` are printed with a text."""
    if text in shown_too:
        return frozenset({TokenType.USER_DEFINED})
    said = {entry.special for entry in entries if entry.special is not None}
    allowed = set(CONTROL) if said != {False} else set()
    if False in said or not said:
        allowed.add(TokenType.USER_DEFINED)
        if looks_special(text) or text in ENDS:
            allowed |= CONTROL
    return frozenset(allowed)


def _merged(source: SourceTokenizer, more: str) -> frozenset[str]:
    """Added runs of spaces, and `more`, of a SentencePiece-style vocabulary: found by merging where text has them."""
    if source.byte_level:
        return frozenset()
    return frozenset(text for text in source.listed_texts if not text.strip(f" {SPACE}{more}"))


def id_problems(source: SourceTokenizer, artifact: Artifact) -> Iterator[str]:
    """BOS, EOS, UNK and PAD: what the file says against the names and ids of the source."""
    for kind, key in ID_NAMES.items():
        found, meant = artifact.values.get(key), meant_ids(kind, source, len(artifact.tokens))
        if found is not None and meant and found not in meant:
            expected = " or ".join(f'{i} ("{shown(source.vocabulary.get(i, ""))}")' for i in sorted(meant))
            yield f"{key} is {shown(str(found))}, the source has {expected}"


def id_notes(source: SourceTokenizer, artifact: Artifact) -> Iterator[str]:
    """Ids that the source has and the file does not say."""
    for kind, key in ID_NAMES.items():
        meant = meant_ids(kind, source, len(artifact.tokens))
        if meant and artifact.values.get(key) is None and artifact.default_id(kind) not in meant:
            yield f"the file says no {key}, the source has {min(meant)}"


def meant_ids(kind: str, source: SourceTokenizer, rows: int) -> set[int]:
    """The ids that the source gives a purpose: by name, else by number; for EOS also what it puts last.

    For UNK and PAD, which change no text, the number will do where the name says another.
    """
    meant: set[int] = set(source.last[-1:]) if kind == "eos" else set()
    said_here = token_text(source.files.settings.get(f"{kind}_token"))
    name = said_here or token_text(source.files.special_map.get(f"{kind}_token"))
    index = source.ids.get(name or "")
    if index is not None and index < rows:
        meant.add(index)
        if kind in STRICT and said_here:  # special_tokens_map.json does not outdo config.json
            return meant
    for said in (source.files.root_config, source.files.config, _generation(source.files.read_file)):
        value = said.get(f"{kind}_token_id")
        meant |= {
            i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int) and is_index(i, rows)
        }
    return meant


def _generation(read_file: ReadFile) -> Mapping[str, Any]:
    return read_object(read_file, "generation_config.json") or {}


def framing_problems(source: SourceTokenizer, artifact: Artifact) -> Iterator[str]:
    """What is put before and after a text."""
    pairs = (("add_bos_token", source.first, artifact.first), ("add_eos_token", source.last, artifact.last))
    for key, meant, found in pairs:
        if meant != found:
            side = "before" if key == "add_bos_token" else "after"
            yield f"{key}: the file puts {list(found)} {side} a text, the source {list(meant)}"


def template_problems(source: SourceTokenizer, artifact: Artifact) -> Iterator[str]:
    """The chat template that transformers would take: chat_template.jinja before tokenizer_config.json."""
    read_file, settings = source.files.read_file, source.files.settings
    where, meant = TEMPLATE_FILE, read_text(read_file, TEMPLATE_FILE)
    if meant is None:
        where, meant = "tokenizer_config.json", _default(settings.get("chat_template"))
    if meant is None:
        where, meant = TEMPLATE_JSON, _default((read_object(read_file, TEMPLATE_JSON) or {}).get("chat_template"))
    found = artifact.values.get("chat_template")
    if (meant or None) != (found or None):
        has = "has none" if not found else "has another"
        yield (
            f"chat template: the file {has} than {where}"
            if found and meant
            else (f"chat template: the file {has}, {where} has one" if meant else "chat template: the source has none")
        )


def _default(found: object) -> str | None:
    if isinstance(found, list):
        named = [e.get("template") for e in found if isinstance(e, dict) and e.get("name") == "default"]
        found = named[-1] if named else None
    return found if isinstance(found, str) else None
