"""Chat templates: found in all places they live in, passed through unchanged, looked at but never rendered.

A template is a program that whoever loads the file runs. It belongs to the checkpoint, so it is copied as it is;
what looks like an attempt to leave a sandbox is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from quantkit.filenames import ADDITIONAL, MAX_TEMPLATES
from quantkit.metadata import KeyValue
from quantkit.records import record
from quantkit.tokenizer.files import TOKENIZER_CONFIG, Json, ReadFile, bad, read_object, read_text
from quantkit.untrusted import shown

KEY = "tokenizer.chat_template"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
MAX_TEMPLATE_BYTES = 64 << 10  # the longest known one has 18 kB

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


@record
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


def find_chat_templates(
    read_file: ReadFile, settings: Mapping[str, Json], names: Sequence[str], otherwise: str | None = None
) -> ChatTemplates:
    """Find the templates, as transformers 5 does: chat_template.jinja with additional_chat_templates/*.jinja wins over
    `chat_template` of tokenizer_config.json (a string or a list); chat_template.json, which is a processor's, comes
    last. A warning names what lost and differs.

    `settings` is tokenizer_config.json, `names` are the names of the checkpoint's files, `otherwise` is the template of
    its family where no file has one. The reference
    (gguf-py/gguf/vocab.py) lets tokenizer_config.json win, also where it is null or empty, and reads no template
    without it. Raises InputError for broken files.
    """
    (default, named), warnings = _said(settings)
    own = read_text(read_file, TEMPLATE_FILE)
    boxed = (read_object(read_file, TEMPLATE_JSON) or {}).get("chat_template")
    texts = {TEMPLATE_FILE: own, TOKENIZER_CONFIG: default, TEMPLATE_JSON: boxed if isinstance(boxed, str) else None}
    winner = next((file for file, text in texts.items() if text), None)
    lost = [file for file, text in texts.items() if text and text != texts[winner or file]]
    if lost:
        message = f"{' and '.join(lost)} has another template than {winner}, which was taken, as in transformers"
        warnings.append(("chat-template", message))
    named = {**({} if own else named), **_additional(read_file, names)}
    default = texts[winner] if winner else default or otherwise
    shown_as = {"chat_template": default or "", **{f"chat_template.{name}": text for name, text in named.items()}}
    warnings += [warning for name, text in shown_as.items() for warning in look_at_template(name, text)]
    return ChatTemplates(default, named, tuple(warnings))


def _said(settings: Mapping[str, Json]) -> tuple[tuple[str | None, dict[str, str]], list[tuple[str, str]]]:
    """The default template and the named ones of tokenizer_config.json, and warnings."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        return _listed(found), []
    if found is None or isinstance(found, str):
        return (found, {}), []
    message = f"chat_template of {TOKENIZER_CONFIG} is neither text nor a list of templates; left out"
    return (None, {}), [("chat-template", message)]


def _additional(read_file: ReadFile, names: Sequence[str]) -> dict[str, str]:
    """Further templates in files of their own, by name."""
    found = {}
    for name in sorted(n for n in names if n.startswith(ADDITIONAL) and n.endswith(".jinja"))[:MAX_TEMPLATES]:
        text = read_text(read_file, name)
        if text is not None:
            found[_plain(name.removeprefix(ADDITIONAL).removesuffix(".jinja"))] = text
    return {name: text for name, text in found.items() if name and name != "default"}


def _plain(name: str) -> str:
    """A name as llama.cpp's keys have it: characters other than ASCII letters and digits become "_"."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _listed(entries: list[Json]) -> tuple[str | None, dict[str, str]]:
    """A list of {"name", "template"}."""
    default, named = None, {}
    if len(entries) > MAX_TEMPLATES:
        raise bad(TOKENIZER_CONFIG, "chat_template", f"{len(entries):,} templates", f"at most {MAX_TEMPLATES}")
    for position, entry in enumerate(entries):
        name = entry.get("name", "") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(text, str | None):
            raise bad(TOKENIZER_CONFIG, f"chat_template[{position}]", entry, "an object with name and template")
        plain = _plain(name)
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
