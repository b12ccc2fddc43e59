"""The model card of artifacts: README.md with front matter that the Hub reads, a table of variants, how to use them.

Every value may come from a stranger's card or file: in the front matter each is one scalar, quoted where it is no plain
word, and in the text what Markdown or HTML would make something of is escaped. The last line holds the hash of all
before it: a card that nobody changed is told from one that a person wrote or edited.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.report.html.markup import digits, visible
from quantkit.report.next_steps import NextStep
from quantkit.report.records import FileRecord
from quantkit.report.text import count, size
from quantkit.units import counted
from quantkit.version import __version__

CARD = "README.md"
MARK = re.compile(rb"<!-- quantkit card ([0-9a-f]{64}) -->\n\Z")
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:[./+][A-Za-z0-9_-]+)*", re.ASCII)
WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})  # of YAML 1.1
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@])")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
MAX_LIST, MAX_SCALAR = 200, 300


@dataclass(frozen=True)
class Measured:
    """What eval found of a variant: means with standard errors, and on what."""

    kl: Mapping[str, Any]
    top1: Mapping[str, Any]
    ratio: Mapping[str, Any]
    tokens: int
    data: str
    reference: str
    version: str
    engine: str | None = None


@dataclass(frozen=True)
class Variant:
    """An artifact: `files` are those that a reader downloads for it, `made` says how in sentences, `command` makes it
    again, `run` are commands for what loads it."""

    label: str
    files: tuple[FileRecord, ...]
    bits_per_weight: float
    measured: Measured | None
    made: tuple[str, ...]
    command: str
    run: tuple[NextStep, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


@dataclass(frozen=True)
class Base:
    """The model that variants were made from. `license`, `languages`, `tags`, `pipeline` are what its card says."""

    name: str
    repo: str | None
    commit: str | None
    architecture: str
    weights: int
    license: tuple[str, ...] = ()
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pipeline: str | None = None


@dataclass(frozen=True)
class Card:
    """All of a card. `library` is what the Hub shows as the library, `kinds` are tags of the container."""

    title: str
    base: Base
    variants: tuple[Variant, ...]
    library: str
    kinds: tuple[str, ...]
    quantized_by: str | None = None

    def encode(self) -> bytes:
        """The file as UTF-8, with the hash of itself as its last line."""
        text = "\n".join([*_front(self), *_body(self), ""])
        data = text.encode("utf-8", "replace")
        return data + f"<!-- quantkit card {hashlib.sha256(data).hexdigest()} -->\n".encode()


def unchanged(data: bytes) -> bool:
    """Whether a file is a card that quantkit wrote and nobody edited."""
    found = MARK.search(data)
    return found is not None and hashlib.sha256(data[: found.start()]).hexdigest().encode() == found[1]


# --- front matter -----------------------------------------------------------------------------------------------------


def scalar(text: str) -> str:
    """One YAML scalar that reads back as this text (halves of surrogate pairs as U+FFFD), whatever is in it."""
    text = text[:MAX_SCALAR].encode("utf-8", "replace").decode()
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _front(card: Card) -> Iterator[str]:
    base = card.base
    yield "---"
    yield from _entry("license", base.license)
    yield from _entry("license_name", base.license_name)
    yield from _entry("license_link", base.license_link)
    yield from _list("language", base.languages)
    if base.repo is not None and REPOSITORY.fullmatch(base.repo):
        yield f"base_model: {scalar(base.repo)}"
        yield "base_model_relation: quantized"
    yield f"library_name: {scalar(card.library)}"
    yield from _entry("pipeline_tag", base.pipeline)
    yield from _list("tags", [*card.kinds, *base.tags])
    yield from _entry("quantized_by", card.quantized_by)
    yield "---"


def _entry(key: str, value: str | Sequence[str] | None) -> Iterator[str]:
    """One value, or several as a list."""
    values = [value] if isinstance(value, str) else list(value or ())
    if len(values) == 1:
        yield f"{key}: {scalar(values[0])}"
    else:
        yield from _list(key, values)


def _list(key: str, values: Iterable[str]) -> Iterator[str]:
    found = list(dict.fromkeys(value for value in values if value))[:MAX_LIST]
    if found:
        yield f"{key}:"
        yield from (f"- {scalar(value)}" for value in found)


# --- text -------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", visible(text)).replace("www.", "www\\.")


def code(text: str, *, cell: bool = False) -> str:
    """A code span, whatever backticks are in it; `cell`: in a table, where pipes are escaped even there."""
    shown = visible(text)
    fence = _fence(shown, 1)
    inner = f" {shown} " if "`" in shown or not shown.strip() else shown
    return fence + (inner.replace("|", "\\|") if cell else inner) + fence


def block(language: str, lines: Iterable[str]) -> list[str]:
    """A fenced block that its lines cannot leave."""
    shown = list(lines)
    fence = _fence("\n".join(shown), 3)
    return [f"{fence}{language}", *shown, fence]


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(longest + 1, least) if longest >= least else "`" * least


def _body(card: Card) -> Iterator[str]:
    base = card.base
    yield ""
    yield f"# {plain(card.title)}"
    yield ""
    yield f"Quantized from {_link(base)}{f' at commit {code(base.commit)}' if base.commit else ''}."
    yield f"{plain(base.architecture)}, {count(base.weights)} weights."
    yield ""
    yield "## Variants"
    yield ""
    yield "| file | size | bits per weight | KL divergence (nats) | same top token | perplexity ratio | SHA-256 |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for variant in card.variants:
        yield from _rows(variant)
    yield ""
    yield from _on_what(card.variants)
    yield "## How to run"
    yield ""
    yield from _runs(card.variants)
    yield "## How it was made"
    yield ""
    for variant in card.variants:
        yield f"**{plain(variant.label)}**"
        yield ""
        yield from (f"- {sentence}" for sentence in variant.made)
        yield ""
        yield from block("bash", [variant.command])
        yield ""
    yield "## Licence"
    yield ""
    yield from _licence(base)
    yield ""
    yield f"This card was written by quantkit {__version__}."


def _link(base: Base) -> str:
    if base.repo is not None and REPOSITORY.fullmatch(base.repo):
        return f"[{plain(base.repo)}](https://huggingface.co/{base.repo})"
    return code(base.repo or base.name)


def _rows(variant: Variant) -> Iterator[str]:
    found = variant.measured
    figures = ["not measured"] * 3
    if found is not None:
        figures = [_estimate(found.kl), f"{_estimate(found.top1, 100)} %", _estimate(found.ratio)]
    bits = f"{variant.bits_per_weight:.2f}"
    for number, file in enumerate(variant.files):
        cells = [bits, *figures] if number == 0 else [""] * 4
        yield f"| {code(file.name, cell=True)} | {file.nbytes:,} bytes | {' | '.join(cells)} | `{file.sha256}` |"
    if len(variant.files) > 1:
        yield f"| all {counted(len(variant.files), 'file')} | {size(variant.nbytes)} | | | | | |"


def _estimate(found: Mapping[str, Any], scale: float = 1.0) -> str:
    error = found["standard_error"]
    value = digits(scale * found["value"])
    return value if error is None else f"{value} ± {scale * error:.2g}"


def _on_what(variants: Sequence[Variant]) -> Iterator[str]:
    """On which text, beside which original; or that nothing was measured."""
    said = dict.fromkeys(
        f"Measured on {counted(v.measured.tokens, 'token')} of {code(v.measured.data)} against the original "
        f"({code(v.measured.reference[:16])}) with quantkit {plain(v.measured.version)}"
        f"{f' in {plain(v.measured.engine)}' if v.measured.engine else ''}; ± is one standard error."
        for v in variants
        if v.measured is not None
    )
    for sentence in said or ("Quality was not measured.",):
        yield sentence
        yield ""


def _runs(variants: Sequence[Variant]) -> Iterator[str]:
    """The commands of the first variant: the others differ by their names alone."""
    first = variants[0]
    if not first.run:
        yield "No program that quantkit knows is said to load it."
        yield ""
        return
    if len(variants) > 1:
        yield f"With {code(first.files[0].name)}, and the others alike:"
        yield ""
    for step in first.run:
        yield f"{plain(step.program)}:"
        yield ""
        yield from block("bash", [step.command])
        yield ""


def _licence(base: Base) -> Iterator[str]:
    if not base.license and base.license_name is None:
        yield f"The licence is that of {_link(base)}, whose card does not name it in a form that could be read."
        return
    names = ", ".join(plain(each) for each in base.license)
    extra = f" ({plain(base.license_name)})" if base.license_name else ""
    link = f", {code(base.license_link)}" if base.license_link else ""
    yield f"The licence is that of the base model: {names}{extra}{link}."
