"""What a model card says of the model that artifacts were made from: by its own card, else by a GGUF header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantkit.families.model_card import CardError, read_card
from quantkit.formats.gguf.file import read_gguf
from quantkit.metadata import KeyValue
from quantkit.report.card import CARD, REPOSITORY, Base
from quantkit.report.manifest import Manifest
from quantkit.source import Checkpoint

MAX_VALUES = 100  # of a list in a card


def base_of(first: Path, manifest: Manifest, source: Checkpoint | None) -> Base:
    facts, model = manifest.source, manifest.facts["model"]
    base = Base(
        name=str(facts["name"]),
        repo=facts.get("repo"),
        commit=facts.get("commit"),
        architecture=str(model.get("architecture", "")),
        weights=int(manifest.facts["size"]["weights"]),
    )
    if source is not None:
        return _said(base, _front_matter(source))
    if first.suffix == ".gguf":
        return _said(base, _of_header(read_gguf(first).metadata))
    return base


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
    return found


def _said(base: Base, card: Mapping[str, Any]) -> Base:
    link = _text(card.get("license_link"))
    if link and base.repo and REPOSITORY.fullmatch(base.repo) and re.fullmatch(r"[\w.-]{1,100}", link, re.ASCII):
        link = f"https://huggingface.co/{base.repo}/blob/{base.commit or 'main'}/{link}"  # a file beside that card
    return replace(
        base,
        license=_texts(card.get("license")),
        license_name=_text(card.get("license_name")),
        license_link=link,
        languages=_texts(card.get("language", card.get("languages"))),
        tags=_texts(card.get("tags")),
        pipeline=_text(card.get("pipeline_tag")),
    )


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
