"""The `general.*` metadata: what a model card, config.json, generation_config.json and the name say of a model.

Keys, types and precedence are the reference's (gguf-py/gguf/metadata.py): model card, then `_name_or_path` of
config.json, then the name of the checkpoint. `general.file_type`, `general.quantization_version` and
`general.architecture` are added elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.families.model import ModelTensor
from quantkit.families.model_card import CARD_FILE, CardError, read_card
from quantkit.families.naming import NameParts, parse_name, size_label, title
from quantkit.metadata import KeyValue, Kind
from quantkit.records import record
from quantkit.untrusted import parse_json_object

ReadFile = Callable[[str], bytes | None]

# key below general.sampling -> its type and where generation_config.json has it; the first one present counts
SAMPLING: tuple[tuple[str, Kind, tuple[str, ...]], ...] = (
    ("sequence", "string", ("sequence",)),
    ("top_k", "i32", ("top_k",)),
    ("top_p", "f32", ("top_p",)),
    ("min_p", "f32", ("min_p",)),
    ("xtc_probability", "f32", ("xtc_probability",)),
    ("xtc_threshold", "f32", ("xtc_threshold",)),
    ("temp", "f32", ("temperature",)),
    ("penalty_last_n", "i32", ("penalty_last_n",)),
    ("penalty_repeat", "f32", ("penalty_repeat", "repetition_penalty")),
    ("mirostat", "i32", ("mirostat",)),
    ("mirostat_tau", "f32", ("mirostat_tau",)),
    ("mirostat_eta", "f32", ("mirostat_eta",)),
)
# key below general -> where the model card has it; the first one with a value counts
CARD: dict[str, tuple[str, ...]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
FROM_NAME = ("name", "organization", "basename", "finetune", "version", "size_label")
LISTS = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}
RELATED = {
    "base_model": ("base_model", "base_models", "base_model_sources"),
    "dataset": ("datasets", "dataset", "dataset_sources"),
}
RELATED_KEYS = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
MAX_I32 = 2**31 - 1
MAX_RELATED = 1000  # models or data sets that are named: each takes several entries
HUB_URL = re.compile(r"https?://huggingface\.co/([^/]+/[^/]+)")


@record
class General:
    """Entries in the reference's order, and what could not be read as (code, message)."""

    metadata: tuple[KeyValue, ...]
    warnings: tuple[tuple[str, str], ...]


def general_metadata(
    name: str,
    config: Mapping[str, Any],
    read_file: ReadFile,
    tensors: Iterable[ModelTensor],
    kind: str = "model",
    *,
    adapted: int | None = None,
) -> General:
    """All of `general.*` for a checkpoint called `name`, in a file of this kind.

    Side files that cannot be read become warnings. Of an adapter `adapted` is the number of weights in the layers that
    it changes.
    """
    warnings: list[tuple[str, str]] = []
    card = _model_card(read_file(CARD_FILE), warnings)
    generation = _json_object("generation_config.json", read_file, warnings)
    parameters, label = size_label(tensors) if adapted is None else (-adapted, "")
    said = _said(card, config, name, parameters)
    if said["size_label"] is None and parameters > 0:
        said["size_label"] = label
    metadata = [
        KeyValue("general.type", "string", kind),
        *(() if adapted is None else (KeyValue("adapter.type", "string", "lora"),)),
        *_sampling(generation),
        *_strings("general.", said),
        *_related(card, parameters),
        *_lists(card),
    ]
    return General(tuple(metadata), tuple(warnings))


def _said(card: Mapping[str, Any], config: Mapping[str, Any], name: str, parameters: int) -> dict[str, Any]:
    """Key below `general.` -> value, from the card first, then from names."""
    said = {key: next((card[k] for k in places if card.get(k) is not None), None) for key, places in CARD.items()}
    path = config.get("_name_or_path")
    is_name = isinstance(path, str) and path.count("/") <= 1  # more slashes: a folder on somebody's machine
    for model_id in (path, name) if is_name else (name,):
        parts = parse_name(str(model_id), parameters)
        for key in FROM_NAME:
            value = getattr(parts, key)
            if said[key] is None and value is not None:
                said[key] = title(value) if key in {"name", "organization"} else value
    if said["name"] is None:
        said["name"] = name
    if isinstance(said["license"], list):
        said["license"] = ",".join(_text(each) for each in said["license"])
    return said


def _sampling(generation: Mapping[str, Any]) -> Iterator[KeyValue]:
    for key, kind, places in SAMPLING:
        value = next((generation[place] for place in places if place in generation), None)
        if kind == "string":
            yield from _strings("general.sampling.", {key: value})
        elif isinstance(value, (int, float)) and abs(value) <= MAX_I32:
            yield KeyValue(f"general.sampling.{key}", kind, float(value) if kind == "f32" else int(value))


def _strings(prefix: str, values: Mapping[str, Any]) -> Iterator[KeyValue]:
    """Strings that are not empty; a card may also hold numbers and dates."""
    for key, value in values.items():
        if text := _text(value):
            yield KeyValue(f"{prefix}{key}", "string", text)


def _text(value: Any) -> str:
    """A scalar as text; "" for nothing and for containers (which YAML aliases can blow up without bound)."""
    if value is None or isinstance(value, (dict, list, set, tuple)):
        return ""
    return str(value).encode("utf-8", "replace").decode()  # JSON and YAML can spell halves of surrogate pairs


def _related(card: Mapping[str, Any], parameters: int) -> Iterator[KeyValue]:
    """What the model was made from: other models, data sets."""
    for kind, places in RELATED.items():
        place = next((place for place in places if place in card), None)
        if place is None:
            continue
        entries = [_related_entry(each, parameters) for each in _listed(card[place])[:MAX_RELATED]]
        yield KeyValue(f"general.{kind}.count", "u32", len(entries))
        for index, entry in enumerate(entries):
            yield from _strings(f"general.{kind}.{index}.", {key: entry.get(key) for key in RELATED_KEYS})


def _related_entry(value: Any, parameters: int) -> Mapping[str, Any]:
    """What a hub id, a URL or a mapping of the card says of one model or data set."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str):
        return {}
    if value.startswith(("http://", "https://", "ssh://")):
        on_hub = HUB_URL.fullmatch(value)
        parts = parse_name(on_hub[1], parameters) if on_hub else NameParts()
        return {**_titled(parts), "repo_url": value}
    parts = parse_name(value, parameters)
    if parts.organization is None or parts.name is None:
        return _titled(parts)
    return {**_titled(parts), "repo_url": f"https://huggingface.co/{parts.organization}/{parts.name}"}


def _titled(parts: NameParts) -> dict[str, str | None]:
    name, organization = (None if text is None else title(text) for text in (parts.name, parts.organization))
    return {"name": name, "organization": organization, "version": parts.version}


def _lists(card: Mapping[str, Any]) -> Iterator[KeyValue]:
    for key, places in LISTS.items():
        values = tuple(text for place in places for each in _listed(card.get(place)) if (text := _text(each)))
        if values:
            yield KeyValue(f"general.{key}", "string", values, array=True)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, str) else []


def _json_object(name: str, read_file: ReadFile, warnings: list[tuple[str, str]]) -> Mapping[str, Any]:
    data = read_file(name)
    if data is None:
        return {}
    try:
        return parse_json_object(data, Path(name))
    except InputError as error:
        warnings.append(("side-file", f"ignored: {error.message}"))
        return {}


def _model_card(data: bytes | None, warnings: list[tuple[str, str]]) -> Mapping[str, Any]:
    try:
        return read_card(data or b"")
    except CardError as error:
        warnings.append(("side-file", f"{CARD_FILE}: the model card's front matter is ignored: {error}"))
        return {}
