"""Conversations as text, through the model's own chat template.

A template is a program from a stranger. It runs in Jinja's immutable sandbox, without globals beyond those that chat
templates need, in a process of its own that has little time, little memory, and may not write files (see
`template_process`). The size is limited before it is parsed, the text while it is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.platforms import LIMITS_PROCESSES, OUT_OF_LIMITS
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tokenizer.chat_template import MAX_TEMPLATE_BYTES, find_chat_templates
from quantkit.tokenizer.files import TOKENIZER_CONFIG, read_object
from quantkit.untrusted import shown

TRUST = "QUANTKIT_TRUST_TEMPLATES"  # set where a template may run without limits of memory
CPU_SECONDS = 2  # for the first conversation, which pays for starting and parsing
CPU_SECONDS_PER_CONVERSATION = 0.02
WALL_FACTOR, WALL_SECONDS = 10, 30  # a loaded machine is slow, which is not the template's fault
MEMORY_BYTES = 512 << 20
TEXT_BYTES = 256 << 20

Conversation = Sequence[Mapping[str, Any]]
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@record
class ChatTemplate:
    """A template and the special tokens it may name, by name ("bos_token")."""

    source: str
    tokens: Mapping[str, str]


@record
class Rendered:
    """A conversation as text, None where the template raised: then `error` says what."""

    text: str | None
    error: str = ""


def read_chat_template(checkpoint: Checkpoint) -> ChatTemplate | None:
    """The default chat template of a checkpoint, None where it has none. Raises InputError for broken files."""
    settings = read_object(checkpoint.read_file, TOKENIZER_CONFIG) or {}
    source = find_chat_templates(checkpoint.read_file, settings, checkpoint.file_names()).default
    if not source:
        return None
    tokens = {}
    for name in SPECIAL:
        value = settings.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            tokens[name] = text
    return ChatTemplate(source, tokens)


def require_limits() -> None:
    """Raise UnsupportedError where nothing but time can be limited, and the user has not said that templates are
    trusted: the sandbox keeps one from files and from everything else, but not from filling the memory."""
    if not LIMITS_PROCESSES and not os.environ.get(TRUST):
        what = "a chat template is a program of whoever made the model, and this system cannot limit its memory"
        hint = f'give rendered text in a "text" column; or trust the template: set {TRUST}=1'
        raise UnsupportedError(what, key="chat_template", hint=hint)


def render(template: ChatTemplate, conversations: Sequence[Conversation], *, reply: bool = False) -> list[str]:
    """Each conversation as the text that the model was trained on; with `reply` up to where the model's reply begins.

    A conversation is a list of messages ({"role": ..., "content": ...}). What templates ask for the date gets a
    fixed one: equal data gives equal text on any day. Raises InputError when the template is too long, does not
    parse, raises, or needs too much time or memory; the message names the conversation. Raises UnsupportedError where
    the system cannot limit what it takes, unless TRUST says that it is trusted.
    """
    work = _work(template, conversations) | {"reply": reply}
    answer = _run(work)
    if "error" in answer:
        raise _failed(f"failed on conversation {answer['conversation']} ({shown(answer['error'], 60)})")
    texts: list[str] = answer["texts"]
    return texts


def render_each(
    template: ChatTemplate, conversations: Sequence[Conversation], clocks: Sequence[str | None]
) -> list[Rendered]:
    """Each conversation up to where the model's reply begins, at its own time (ISO 8601; None: there is no
    `strftime_now`). A template that raises for one of them still renders the others.

    Raises InputError when it is too long, or needs too much time or memory.
    """
    answers = _run(_work(template, conversations) | {"each": list(clocks)})["each"]
    return [Rendered(answer.get("text"), shown(answer.get("error", ""), 60)) for answer in answers]


def _work(template: ChatTemplate, conversations: Sequence[Conversation]) -> dict[str, Any]:
    """What the process is asked. Raises InputError for a template that is too long."""
    size = len(template.source.encode("utf-8", "surrogatepass"))
    if size > MAX_TEMPLATE_BYTES:
        message = f"the chat template has {size:,} bytes, at most {MAX_TEMPLATE_BYTES:,} are accepted"
        raise InputError(message, key="chat_template", hint="render the conversations yourself and give them as text")
    require_limits()
    return {
        "template": template.source,
        "tokens": dict(template.tokens),
        "conversations": [list(messages) for messages in conversations],
        "cpu_seconds": CPU_SECONDS + int(CPU_SECONDS_PER_CONVERSATION * len(conversations)),
        "text_bytes": TEXT_BYTES,
    }


def _run(work: Mapping[str, Any]) -> dict[str, Any]:
    seconds = work["cpu_seconds"]
    given = json.dumps(work).encode()
    # -I: neither the environment nor the current folder chooses what is imported
    command = [
        sys.executable,
        "-I",
        "-m",
        "quantkit.calibration.text.template_process",
        str(MEMORY_BYTES + 8 * len(given)),
    ]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=WALL_SECONDS + WALL_FACTOR * seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"did not end within {error.timeout:.0f} s") from error
    if done.returncode in OUT_OF_LIMITS:
        raise _failed(f"took more than {seconds} s or {MEMORY_BYTES >> 20} MB")
    if done.returncode != 0:
        raise _failed(f"ended its process with {done.returncode}")  # what it wrote may hold text
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _failed(why: str) -> InputError:
    return InputError(
        f"the model's chat template {why}",
        key="chat_template",
        hint='check the roles of the messages, or give rendered text in a "text" column',
    )
