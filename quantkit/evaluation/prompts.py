"""Sets of prompts: those that ship, or JSON Lines of the user's own, as tokens of a model.

A line is a prompt:

    {"id": "sum-1", "kind": "arithmetic", "prompt": "What is 2 + 3?", "expect": {"number": 5}}

`prompt` is a question, `messages` a conversation, `text` text that is continued as it is. A model with a chat template
gets the messages, else the question as the user's message, up to where its reply begins; else the text. One without
gets the text, else the question as it is. `expect` (expectations.py), `id` and `kind` may be left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from quantkit.calibration.text.samples import Tokens
from quantkit.calibration.text.templates import ChatTemplate, read_chat_template, render
from quantkit.errors import InputError, did_you_mean
from quantkit.evaluation.expectations import Expectation, ExpectationError, parse_expectations
from quantkit.evaluation.made_prompts import MADE, made_lines
from quantkit.jsontext import utf8
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tokenizer.files import TOKENIZER_CONFIG, read_object
from quantkit.untrusted import encodable, read_bounded, shown, unique_pairs

GOLDEN = "golden"
BUILT_IN = (GOLDEN, *MADE)
FILE = Path(__file__).with_name("golden.jsonl")
MAX_BYTES, MAX_PROMPTS = 64 << 20, 10_000
FIELDS = ("id", "kind", "prompt", "messages", "text", "expect")
OTHER = "other"  # the kind of a prompt that names none
EXAMPLE = 'a line is {"id": "a", "prompt": "What is 2 + 3?", "expect": {"number": 5}}'


@record
class Prompt:
    """A prompt: its name, its kind, what is asked, in up to three ways, and what is expected of a continuation."""

    name: str
    kind: str
    prompt: str | None
    messages: tuple[Mapping[str, Any], ...]
    text: str | None
    expected: tuple[Expectation, ...]


@record
class PromptSet:
    """Prompts in the order of their file; `sha256` is that of the file."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]

    def having(self, *kinds: str) -> int:
        """How many prompts expect something of these kinds, of any without."""
        return sum(any(not kinds or e.kind in kinds for e in prompt.expected) for prompt in self.prompts)


@record
class Asked:
    """A set as tokens of a model: for each prompt its text, its ids, and the ids of the options that it chooses from.
    `templated` counts the prompts that the chat template wrote, `ends` are the tokens that end a continuation."""

    prompts: PromptSet
    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    options: tuple[tuple[tuple[int, ...], ...], ...]
    templated: int
    ends: frozenset[int] = field(default_factory=frozenset)


def is_built_in(spec: str) -> bool:
    """Whether that names sets that ship: "golden", "json", "copy", or several with "+" between them."""
    names = spec.split("+")
    return {*names} <= {*BUILT_IN} and len({*names}) == len(names)


def _data(spec: str, path: Path) -> bytes:
    if not is_built_in(spec):
        return read_bounded(path, MAX_BYTES)
    return b"".join(made_lines(name) if name in MADE else read_bounded(FILE, MAX_BYTES) for name in spec.split("+"))


def read_prompts(spec: str) -> PromptSet:
    """The sets that ship for their names, else that of a file of JSON Lines (a file of that name is "./golden").

    Raises InputError naming the line for what is no such set: lines that are no JSON, ids that two prompts have,
    fields and kinds of expectations that are not known, schemas that are none.
    """
    path = Path(spec)
    data = _data(spec, path)
    name = spec if is_built_in(spec) else utf8(path.name).decode()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{shown(name)} is not UTF-8 at byte {error.start:,}"
        raise InputError(what, path=str(path), key="prompts", hint="give JSON Lines") from error
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = _prompt(line, number)
            if found.name in lines:
                raise ExpectationError(f'id "{shown(found.name, 40)}" is that of line {lines[found.name]}, too')  # noqa: TRY301
        except ExpectationError as error:
            raise InputError(
                f"{shown(name)}: line {number}: {error}", path=str(path), key="prompts", hint=EXAMPLE
            ) from error
        lines[found.name] = number
        prompts.append(found)
        if len(prompts) > MAX_PROMPTS:
            what = f"{shown(name)} has more than {MAX_PROMPTS:,} prompts"
            raise InputError(what, path=str(path), key="prompts", hint="cut it into several files")
    if not prompts:
        raise InputError(f"{shown(name)} has no prompts", path=str(path), key="prompts", hint=EXAMPLE)
    return PromptSet(name, hashlib.sha256(data).hexdigest(), tuple(prompts))


def _prompt(line: str, number: int) -> Prompt:
    """A line. Raises ExpectationError."""
    try:
        row = json.loads(line, object_pairs_hook=unique_pairs)
    except RecursionError as error:
        raise ExpectationError("JSON nested too deeply") from error
    except ValueError as error:
        raise ExpectationError(f"no JSON: {shown(str(error), 100)}") from error
    if not isinstance(row, dict):
        raise ExpectationError(f"{type(row).__name__}, not an object")
    for key in row:
        if key not in FIELDS:
            known = f"fields: {', '.join(FIELDS)}"
            raise ExpectationError(f'unknown field "{shown(key, 40)}"{did_you_mean(key, FIELDS)}; {known}')
    texts = {key: row.get(key) for key in ("id", "kind", "prompt", "text")}
    for key, value in texts.items():
        if value is not None and not (isinstance(value, str) and value.strip() and encodable(value)):
            raise ExpectationError(f'"{key}" is no text')
    messages = row.get("messages")
    if messages is not None and not _is_conversation(messages):
        raise ExpectationError('"messages" is no list of {"role": "user", "content": "..."}')
    if not messages and texts["prompt"] is None and texts["text"] is None:
        raise ExpectationError('nothing to ask: it has none of "prompt", "messages" and "text"')
    expected = () if row.get("expect") is None else _expected(row["expect"])
    name, kind = texts["id"] or f"line {number}", texts["kind"] or OTHER
    return Prompt(name, kind, texts["prompt"], tuple(messages or ()), texts["text"], expected)


def _expected(given: Any) -> tuple[Expectation, ...]:
    try:
        return parse_expectations(given)
    except ExpectationError as error:
        raise ExpectationError(f"expect: {error}") from error


def _is_conversation(messages: Any) -> bool:
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(m, dict)
        and isinstance(m.get("role"), str)
        and isinstance(m.get("content"), str)
        and encodable(m["content"])
        for m in messages
    )


def asked_of(prompts: PromptSet, checkpoint: Checkpoint, tokens: Tokens, length: int, context: int) -> Asked:
    """A set as tokens of a model, whose context (0: unknown) has to hold each prompt and `length` more.

    Raises InputError for a prompt that does not fit or has no tokens, for messages without a chat template to write
    them with, and for a template that fails.
    """
    template = read_chat_template(checkpoint)
    written = _written(prompts, template)
    templated = _templated(prompts, template)
    ids, options = [], []
    for prompt, text, by_template in zip(prompts.prompts, written, templated, strict=True):
        found = _framed(tokens, text, by_template)
        choices = _options(prompt, text, found, tokens, by_template)
        longest = len(found) + max([length, *map(len, choices)])
        if context and longest > context:
            what = f'prompt "{shown(prompt.name, 40)}" has {len(found):,} tokens: with {length:,} behind it more than'
            hint = "shorten it, or ask for fewer tokens with --prompt-tokens"
            raise InputError(f"{what} the {context:,} that the model takes", key="prompts", hint=hint)
        if not found:
            raise InputError(f'prompt "{shown(prompt.name, 40)}" has no tokens', key="prompts", hint=EXAMPLE)
        ids.append(tuple(found))
        options.append(choices)
    return Asked(prompts, tuple(written), tuple(ids), tuple(options), sum(templated), ending_tokens(checkpoint))


def _framed(tokens: Tokens, text: str, by_template: bool) -> list[int]:
    """The ids of a text, with the token that begins texts: a chat template writes that itself where it belongs."""
    ids = tokens.encode(text)
    first = [] if tokens.bos is None or by_template or ids[:1] == [tokens.bos] else [tokens.bos]
    return [*first, *ids]


def _options(
    prompt: Prompt, text: str, ids: Sequence[int], tokens: Tokens, by_template: bool
) -> tuple[tuple[int, ...], ...]:
    """The ids of each continuation that a prompt chooses from: what stands behind the prompt's when both are split
    together; where the border lies inside a token, those of the continuation by itself. A reply that a chat template
    opens begins without the space that stands behind a text."""
    found = []
    for given in next((e.choice.options for e in prompt.expected if e.choice), ()):
        option = given.lstrip() if by_template else given
        whole = _framed(tokens, text + option, by_template)
        own = whole[len(ids) :] if whole[: len(ids)] == list(ids) else tokens.encode(option)
        found.append(tuple(own or tokens.encode(option)))
    return tuple(found)


def _templated(prompts: PromptSet, template: ChatTemplate | None) -> list[bool]:
    return [template is not None and bool(p.messages or p.prompt) for p in prompts.prompts]


def _written(prompts: PromptSet, template: ChatTemplate | None) -> list[str]:
    """The text of each prompt."""
    if template is None:
        without = [p for p in prompts.prompts if p.text is None and p.prompt is None]
        if without:
            what = f'prompt "{shown(without[0].name, 40)}" has messages, and the model has no chat template'
            raise InputError(what, key="prompts", hint='give it a "text" besides, which such models continue')
        return [p.text or p.prompt or "" for p in prompts.prompts]
    asked = [
        list(p.messages) or [{"role": "user", "content": p.prompt}] for p in prompts.prompts if p.messages or p.prompt
    ]
    rendered = iter(render(template, asked, reply=True) if asked else ())
    return [
        next(rendered) if chat else p.text or ""
        for p, chat in zip(prompts.prompts, _templated(prompts, template), strict=True)
    ]


def ending_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """The tokens that end what a model writes: those of generation_config.json, else of config.json, and the one that
    the tokenizer's settings name."""
    said = read_object(checkpoint.read_file, "generation_config.json") or {}
    config = checkpoint.config.get("text_config") or checkpoint.config
    given = said.get("eos_token_id", config.get("eos_token_id") if isinstance(config, Mapping) else None)
    found = {
        i for i in (given if isinstance(given, list) else [given]) if isinstance(i, int) and not isinstance(i, bool)
    }
    settings = read_object(checkpoint.read_file, TOKENIZER_CONFIG) or {}
    name = settings.get("eos_token")
    name = name.get("content") if isinstance(name, Mapping) else name
    if isinstance(name, str):
        from quantkit.tokenizer.own import open_source_tokenizer

        index = open_source_tokenizer(checkpoint.read_file, checkpoint.config).ids.get(name)
        found |= set() if index is None else {index}
    return frozenset(found)


def kinds_of(prompts: PromptSet) -> list[str]:
    """The kinds of prompts, in the order in which they first come."""
    return list(Counter(prompt.kind for prompt in prompts.prompts))
