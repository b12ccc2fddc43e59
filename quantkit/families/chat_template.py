"""Chat templates: found in all places they live in, passed through unchanged, looked at but never rendered.

A template is a program that whoever loads the file runs. It belongs to the checkpoint, so it is copied as it is;
what looks like an attempt to leave a sandbox is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from quantkit.families.tokenizer_files import TOKENIZER_CONFIG, Json, ReadFile, bad, read_object, read_text
from quantkit.metadata import KeyValue
from quantkit.untrusted import shown

KEY = "tokenizer.chat_template"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
ADDITIONAL = "additional_chat_templates/"
MAX_TEMPLATE_BYTES = 64 << 10  # the longest known one has 18 kB
MAX_TEMPLATES = 64

OPENING = re.compile(r"\{[{%]")
SUSPICIOUS = (
    (re.compile(r"__\w{1,40}?__|\\x5f|\\u005f|\\137"), "reaches for Python's internals"),
    (re.compile(r"\|\s*attr\b"), "looks attributes up by computed names (|attr)"),
    (re.compile(r"\b(?:cycler|joiner|lipsum|get_flashed_messages|url_for)\b"), "uses a global of a web framework"),
    (re.compile(r"\bnamespace\s*\.\s*_|\bself\s*\.\s*_|\bloop\s*\.\s*_"), "reaches for Python's internals"),
    (re.compile(r"\{%-?\s*(?:include|import|from|extends)\b"), "loads another template"),
    (re.compile(r"\.\s*(?:mro|format_map|func_globals|gi_frame|f_globals)\b"), "reaches for Python's internals"),
    (re.compile(r"[\"']_+[\"']\s*[~+*%]|[~+]\s*[\"']_+[\"']"), "puts a name together from underscores"),
)


@dataclass(frozen=True)
class ChatTemplates:
    """`default` is the template, None where there is none; `named` are further ones by name, in their order."""

    default: str | None
    named: Mapping[str, str]
    warnings: tuple[tuple[str, str], ...]

    def metadata(self) -> tuple[KeyValue, ...]:
        """The `tokenizer.chat_template*` entries; empty templates are left out, as the reference's writer does."""
        named = [KeyValue(f"{KEY}.{name}", "string", text) for name, text in self.named.items() if text]
        names = (KeyValue(f"{KEY}s", "string", tuple(sorted(self.named)), array=True),) if self.named else ()
        default = (KeyValue(KEY, "string", self.default),) if self.default else ()
        return (*named, *names, *default)


def find_chat_templates(read_file: ReadFile, settings: Mapping[str, Json], names: Sequence[str]) -> ChatTemplates:
    """Find the templates: `chat_template` of tokenizer_config.json (a string or a list), else chat_template.jinja
    with additional_chat_templates/*.jinja, else chat_template.json.

    `settings` is tokenizer_config.json; without it there are no templates, as in the reference (gguf-py/gguf/vocab.py)
    and in transformers. `names` are the names of the checkpoint's files. Raises InputError for broken files.
    """
    if not settings:
        return ChatTemplates(None, {}, ())
    found: Json = settings["chat_template"] if "chat_template" in settings else _beside(read_file, names)
    default: str | None = None
    named: dict[str, str] = {}
    if isinstance(found, str):
        default = found
    elif isinstance(found, list):
        default, named = _listed(found)
    elif found is not None:
        message = f"chat_template of {TOKENIZER_CONFIG} is neither text nor a list of templates; left out"
        return ChatTemplates(None, {}, (("chat-template", message),))
    texts = {"chat_template": default or "", **{f"chat_template.{name}": text for name, text in named.items()}}
    warnings = tuple(warning for name, text in texts.items() for warning in look_at_template(name, text))
    return ChatTemplates(default, named, warnings)


def _beside(read_file: ReadFile, names: Sequence[str]) -> Json:
    """The template in files of its own."""
    default = read_text(read_file, TEMPLATE_FILE)
    if default is None:
        return (read_object(read_file, TEMPLATE_JSON) or {}).get("chat_template")
    found: list[Json] = []
    for name in sorted(n for n in names if n.startswith(ADDITIONAL) and n.endswith(".jinja"))[:MAX_TEMPLATES]:
        text = read_text(read_file, name)
        if text is not None:
            found.append({"name": name.removeprefix(ADDITIONAL).removesuffix(".jinja"), "template": text})
    return [{"name": "default", "template": default}, *found] if found else default


def _listed(entries: list[Json]) -> tuple[str | None, dict[str, str]]:
    """A list of {"name", "template"}; characters other than ASCII letters and digits in names become "_"."""
    default, named = None, {}
    if len(entries) > MAX_TEMPLATES:
        raise bad(TOKENIZER_CONFIG, "chat_template", f"{len(entries):,} templates", f"at most {MAX_TEMPLATES}")
    for position, entry in enumerate(entries):
        name = entry.get("name", "") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(text, str | None):
            raise bad(TOKENIZER_CONFIG, f"chat_template[{position}]", entry, "an object with name and template")
        plain = re.sub(r"[^A-Za-z0-9]", "_", name)
        if not plain or text is None:
            continue
        if plain == "default":
            default = text
        else:
            named[plain] = text
    return default, named


def look_at_template(name: str, text: str) -> Iterable[tuple[str, str]]:
    """Report what is unusual in a template, as (code, message); the code of blocks is searched, never run.

    Ordinary templates give nothing: those in llama.cpp's models/templates do not.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEMPLATE_BYTES:
        yield "chat-template", f"{shown(name)} has {size:,} bytes, more than {MAX_TEMPLATE_BYTES:,}; it was copied"
        text = text[:MAX_TEMPLATE_BYTES]
    reported = set()
    for start, code in _blocks(text):
        for pattern, what in SUSPICIOUS:
            if what not in reported and pattern.search(code):
                reported.add(what)
                line = text.count("\n", 0, start) + 1
                yield "chat-template", f"{shown(name)} line {line} {what}: {shown(code, 80)}"


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Where each expression or statement begins, and its text; the last one may be open."""
    start = 0
    while opening := OPENING.search(text, start):
        end = text.find("}}" if opening[0] == "{{" else "%}", opening.end())
        stop = len(text) if end < 0 else end + 2
        yield opening.start(), text[opening.start() : stop]
        start = stop
