"""The model card of artifacts: README.md with front matter that the Hub reads, a table of variants, how to use them.

Every value may come from a stranger's card or file: in the front matter each is one scalar, quoted where it is no plain
word, and in the text what Markdown or HTML would make something of is escaped. The last line holds the hash of all
before it: a card that nobody changed is told from one that a person wrote or edited.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from quantkit.records import record
from quantkit.report.card_sections import Rollout, gate_lines, lineage_lines, rollout_lines
from quantkit.report.html.markup import digits
from quantkit.report.lineage import Ancestor
from quantkit.report.markdown import REPOSITORY, block, code, linked, plain
from quantkit.report.next_steps import NextStep
from quantkit.report.records import FileRecord
from quantkit.report.text import count, size
from quantkit.units import counted
from quantkit.version import __version__

CARD = "README.md"
MARK = re.compile(rb"<!-- quantkit card ([0-9a-f]{64}) -->\n\Z")
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:[./+][A-Za-z0-9_-]+)*", re.ASCII)
WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})  # of YAML 1.1
MAX_LIST, MAX_SCALAR = 200, 300


@record
class Measured:
    """What was found of a variant: means with standard errors, and on what. Where convert judged gates, `kl` alone."""

    kl: Mapping[str, Any]
    top1: Mapping[str, Any] | None
    ratio: Mapping[str, Any] | None
    tokens: int
    data: str
    reference: str
    version: str
    engine: str | None = None
    held_out: bool | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "kl": dict(self.kl),
            "top1_agreement": None if self.top1 is None else dict(self.top1),
            "perplexity_ratio": None if self.ratio is None else dict(self.ratio),
            "tokens": self.tokens,
            "data": self.data,
            "held_out": self.held_out,
            "reference": self.reference,
            "engine": self.engine,
            "version": self.version,
        }


@record
class Variant:
    """An artifact: `files` are those that a reader downloads for it, `made` says how in sentences, `command` makes it
    again, `run` are commands for what loads it, `gates` are limits that it was judged by, in words, and whether it
    keeps them."""

    label: str
    files: tuple[FileRecord, ...]
    bits_per_weight: float
    measured: Measured | None
    made: tuple[str, ...]
    command: str
    run: tuple[NextStep, ...]
    gates: tuple[tuple[str, bool], ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


@record
class Base:
    """The model that variants were made from. `license`, `languages`, `tags`, `pipeline`, `datasets` are what its card
    says, `lineage` what lies between it and the variants, and further back. `relation` is the Hub's word for what
    variants are to it."""

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
    datasets: tuple[str, ...] = ()
    lineage: tuple[Ancestor, ...] = ()
    relation: str = "quantized"


@record
class Card:
    """All of a card. `library` is what the Hub shows as the library, `kinds` are tags of the container; `rollout` is
    there where it is the card of a release."""

    title: str
    base: Base
    variants: tuple[Variant, ...]
    library: str
    kinds: tuple[str, ...]
    quantized_by: str | None = None
    rollout: Rollout | None = None

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
        yield f"base_model_relation: {scalar(base.relation)}"
    yield from _list("datasets", base.datasets)
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


def _body(card: Card) -> Iterator[str]:
    base = card.base
    yield ""
    yield f"# {plain(card.title)}"
    yield ""
    made = "Converted" if base.relation == "adapter" else "Quantized"
    yield f"{made} from {_link(base)}{f' at commit {code(base.commit)}' if base.commit else ''}."
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
    yield from gate_lines([(variant.label, variant.gates) for variant in card.variants])
    if card.rollout is not None:
        yield from rollout_lines(card.rollout)
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
    yield from lineage_lines(base.lineage)
    yield "## Licence"
    yield ""
    yield from _licence(base)
    yield ""
    yield f"This card was written by quantkit {__version__}."


def _link(base: Base) -> str:
    return linked(base.repo or base.name) if base.repo else code(base.name)


def _rows(variant: Variant) -> Iterator[str]:
    found = variant.measured
    figures = ["not measured"] * 3
    if found is not None:
        figures[0] = _estimate(found.kl)
        figures[1] = figures[1] if found.top1 is None else f"{_estimate(found.top1, 100)} %"
        figures[2] = figures[2] if found.ratio is None else _estimate(found.ratio)
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
        f"{f' in {plain(v.measured.engine)}' if v.measured.engine else ''}"
        f"{', text that it was calibrated on' if v.measured.held_out is False else ''}; ± is one standard error."
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
