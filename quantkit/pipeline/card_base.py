"""What a model card says of the model that artifacts were made from: by its own card, else by a GGUF header, else by
the card that quantkit wrote before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from quantkit.errors import QuantkitError
from quantkit.families.model_card import MAX_BYTES, CardError, read_card
from quantkit.formats.gguf.file import read_gguf
from quantkit.metadata import KeyValue
from quantkit.pipeline.folder import Finished
from quantkit.pipeline.taken_over import is_taken_over
from quantkit.report.card import CARD, Base, unchanged
from quantkit.report.lineage import RELATIONS, Ancestor, trained_as
from quantkit.report.markdown import REPOSITORY
from quantkit.report.release import RELEASE, read_release
from quantkit.source import Checkpoint
from quantkit.untrusted import read_bounded

MAX_VALUES = 100  # of a list in a card
OWN_TAGS = ("lora", "quantized", "quantkit")  # what quantkit's own cards add to those of the source
HUB = re.compile(r"https?://huggingface\.co/(?:datasets/)?([^/\s]+/[^/\s]+)")


def base_of(artifact: Finished, source: Checkpoint | None) -> Base:
    """What is known of an artifact's source."""
    manifest = artifact.manifest
    facts, model = manifest.source, manifest.facts["model"]
    adapters = [each for each in facts.get("adapters") or () if isinstance(each, Mapping)]
    base = Base(
        name=str(facts["name"]),
        repo=facts.get("repo"),
        commit=facts.get("commit"),
        architecture=str(model.get("architecture", "")),
        weights=int(manifest.facts["size"]["weights"]),
        lineage=tuple(
            Ancestor("merged with", str(a.get("name")), "manifest", sha256=a.get("sha256")) for a in adapters
        ),
    )
    if artifact.adapts and adapters:
        base = replace(base, repo=_text(adapters[0].get("base")), commit=None, relation="adapter", lineage=())
    if source is not None:
        return _said(base, _front_matter(source), "header" if source.kind == "gguf" else "card")
    if artifact.gguf:
        return _said(base, _of_header(read_gguf(artifact.first).metadata), "header")
    base = _said(base, _of_folder(artifact), "card")
    return replace(base, lineage=_lineage_in_release(artifact) or base.lineage)


def _lineage_in_release(artifact: Finished) -> tuple[Ancestor, ...]:
    """What the release.json beside an artifact says of what lies before it: its card has it in words alone."""
    path = artifact.first.parent / RELEASE
    try:
        body = read_release(path) if path.is_file() else {"artifacts": []}
        if artifact.manifest.identity in [each.get("identity") for each in body["artifacts"]]:
            return msgspec.convert(body.get("lineage"), tuple[Ancestor, ...])
    except (QuantkitError, msgspec.ValidationError):
        pass
    return ()


def _front_matter(source: Checkpoint) -> Mapping[str, Any]:
    if source.kind == "gguf":
        return _of_header(source.metadata)
    try:
        return read_card(source.read_file(CARD) or b"")
    except CardError:
        return {}


def _of_header(metadata: Sequence[KeyValue]) -> dict[str, Any]:
    """What a GGUF header has from the card of its source, under the card's names."""
    places = {
        "general.license": "license", "general.license.name": "license_name", "general.license.link": "license_link",
        "general.tags": "tags", "general.languages": "language",
    }  # fmt: skip
    found = {places[kv.key]: kv.items() if kv.array else kv.value for kv in metadata if kv.key in places}
    if isinstance(found.get("license"), str):
        found["license"] = str(found["license"]).split(",")
    for kind, name in (("base_model", "base_model"), ("dataset", "datasets")):
        key = re.compile(rf"general\.{kind}\.\d{{1,4}}\.repo_url")
        urls = [HUB.fullmatch(_text(kv.value) or "") for kv in metadata if key.fullmatch(kv.key)]
        found[name] = [url[1] for url in urls if url]
    return found


def _of_folder(artifact: Finished) -> Mapping[str, Any]:
    """The card beside a checkpoint: that of its source where it was taken over, or one that quantkit wrote from it,
    without what quantkit added. Of any other nobody knows whose it is."""
    path = artifact.first.parent / CARD
    try:
        data = read_bounded(path, MAX_BYTES) if path.is_file() else b""
        card = read_card(data)
    except (QuantkitError, CardError):
        return {}
    if is_taken_over(path.parent, [artifact]):
        return card
    if not unchanged(data):
        return {}
    own = {*OWN_TAGS, str(artifact.manifest.facts["model"].get("container", ""))}
    tags = [tag for tag in _texts(card.get("tags")) if tag not in own]
    return {**{key: value for key, value in card.items() if not key.startswith("base_model")}, "tags": tags}


def _said(base: Base, card: Mapping[str, Any], by: str) -> Base:
    link = _text(card.get("license_link"))
    if link and base.repo and REPOSITORY.fullmatch(base.repo) and re.fullmatch(r"[\w.-]{1,100}", link, re.ASCII):
        link = f"https://huggingface.co/{base.repo}/blob/{base.commit or 'main'}/{link}"  # a file beside that card
    tags = _texts(card.get("tags"))
    return replace(
        base,
        license=_texts(card.get("license")),
        license_name=_text(card.get("license_name")),
        license_link=link,
        languages=_texts(card.get("language", card.get("languages"))),
        tags=tags,
        pipeline=_text(card.get("pipeline_tag")),
        datasets=_texts(card.get("datasets", card.get("dataset"))),
        lineage=(*base.lineage, *_parents(card, by), *trained_as(base.repo or base.name, tags, by)),
    )


def _parents(card: Mapping[str, Any], by: str) -> Iterator[Ancestor]:
    """The models that a source was made from, by its card."""
    said = _text(card.get("base_model_relation"))
    relation = said if said in RELATIONS else "derived from"
    for name in dict.fromkeys(_texts(card.get("base_model"))):
        yield Ancestor(relation, name, by, repo=name if REPOSITORY.fullmatch(name) else None)


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text for each in values[:MAX_VALUES] if (text := _text(each)))


def _text(value: Any) -> str | None:
    """A text that is not empty; numbers and dates of YAML as texts, nothing nested."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or isinstance(value, dict | list | set | tuple) or not str(value).strip():
        return None
    return str(value)
