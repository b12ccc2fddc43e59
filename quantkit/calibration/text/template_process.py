"""The process in which a chat template runs: `python -m quantkit.calibration.text.template_process MEMORY_BYTES`.

Reads one JSON object from stdin (template, tokens, conversations, limits) and writes one to stdout: {"texts": [...]}
or {"error": ..., "conversation": number}; with "each", which holds the clock of every conversation, {"each": [...]} of
{"text": ...} or {"error": ...}. Limits itself before it looks at the template.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

try:
    import resource
except ImportError:  # Windows: see templates.require_limits
    resource = None  # type: ignore[assignment]

NOW = datetime(2025, 1, 1, tzinfo=UTC)  # what strftime_now sees

NOTHING_ELSE = {"tools": None, "documents": None}  # what transformers says where there are none

# Templates mark what the model itself says by {% generation %} ... {% endgeneration %}, which is for training: the
# text between the marks is kept.
GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


FAILURES = (
    TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError,
    MemoryError,
)  # fmt: skip


class _Known(TemplateError):
    """An error whose words are ours."""


def main() -> int:
    """Render what stdin asks for; returns the exit status."""
    if resource is not None:
        _limit(resource.RLIMIT_FSIZE, 0, 0)
        if sys.platform == "linux":  # macOS counts address space that is only reserved
            _limit(resource.RLIMIT_AS, int(sys.argv[1]), int(sys.argv[1]))
    work = json.loads(sys.stdin.buffer.read())
    if resource is not None:
        seconds = int(work["cpu_seconds"])
        _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    answer = {"each": each(work)} if "each" in work else _answer(work)
    sys.stdout.buffer.write(json.dumps(answer).encode())
    return 0


def _limit(kind: int, soft: int, hard: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    _, now = resource.getrlimit(kind)
    lowest = hard if now == resource.RLIM_INFINITY else min(hard, now)
    resource.setrlimit(kind, (min(soft, lowest), lowest))


def each(work: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every conversation by itself, a text up to where the reply begins or why there is none. `work["each"]` holds what
    time it is for each: ISO 8601, None where templates cannot ask."""
    left = int(work["text_bytes"])
    answers: list[dict[str, str]] = []
    parsed: dict[str | None, Template] = {}
    for messages, clock in zip(work["conversations"], work["each"], strict=True):
        try:
            if clock not in parsed:
                now = None if clock is None else datetime.fromisoformat(clock)
                parsed[clock] = _environment(now).from_string(GENERATION.sub(_as_condition, work["template"]))
            asked = {**work["tokens"], "add_generation_prompt": True}
            text = _with_or_without(parsed[clock], messages, asked, left)
        except FAILURES as error:
            answers.append({"error": error.args[0] if isinstance(error, _Known) else type(error).__name__})
        else:
            left -= len(text)
            answers.append({"text": text})
    return answers


def _with_or_without(template: Template, messages: Sequence[Any], asked: Mapping[str, Any], limit: int) -> str:
    """The text where tools are None, as transformers has it; of a template that wants some, where there is no word of
    them, as llama.cpp has it."""
    try:
        return _rendered(template, messages, {**NOTHING_ELSE, **asked}, limit)
    except TypeError:
        return _rendered(template, messages, asked, limit)


def _answer(work: Mapping[str, Any]) -> dict[str, Any]:
    number = 0
    left = int(work["text_bytes"])
    texts: list[str] = []
    try:
        template = _environment().from_string(GENERATION.sub(_as_condition, work["template"]))
        for number, messages in enumerate(work["conversations"]):  # noqa: B007  (the error names it)
            asked = {**NOTHING_ELSE, **work["tokens"], "add_generation_prompt": work.get("reply", False)}
            texts.append(_rendered(template, messages, asked, left))
            left -= len(texts[-1])
    except FAILURES as error:
        # the kind alone: what a template raises, and what Jinja quotes, may hold the text of the conversation
        return {"error": error.args[0] if isinstance(error, _Known) else type(error).__name__, "conversation": number}
    return {"texts": texts}


def _rendered(template: Template, messages: Sequence[Mapping[str, Any]], asked: Mapping[str, Any], limit: int) -> str:
    pieces: list[str] = []
    for piece in template.generate(messages=messages, **asked):
        pieces.append(piece)
        limit -= len(piece)
        if limit < 0:
            raise _Known("the text is too long")
    return "".join(pieces)


def _environment(now: datetime | None = NOW) -> ImmutableSandboxedEnvironment:
    """As transformers renders templates (utils/chat_template_utils.py), but for the clock and fewer globals."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    kept = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    environment.globals.clear()
    environment.globals.update(kept, raise_exception=_raise)
    if now is not None:
        environment.globals["strftime_now"] = now.strftime
    environment.filters["tojson"] = _to_json
    return environment


def _as_condition(match: re.Match[str]) -> str:
    return f"{match[1]}{'endif' if match[2] else 'if true'}{match[3]}"


def _raise(message: object) -> NoReturn:
    raise _Known("it refuses the messages: raise_exception")


def _to_json(value: object, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
    """JSON as it is; Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


if __name__ == "__main__":
    sys.exit(main())
