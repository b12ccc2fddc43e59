"""A bill of materials for machine learning (CycloneDX 1.6, JSON) of a release: every artifact as a model with hashes,
licence, its ancestors, and a model card for programs.

Source: the specification at cyclonedx.org/docs/1.6. It has no place for standard errors, which stand in properties.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.jsontext import canonical_json, dump_json
from quantkit.report.licences import spdx
from quantkit.report.markdown import REPOSITORY
from quantkit.report.release import MAX_BYTES, MAX_VALUES
from quantkit.report.text import size
from quantkit.untrusted import parse_json_object, read_bounded
from quantkit.version import __version__

BOM = "bom.cdx.json"
SPEC, MODEL = "1.6", "machine-learning-model"
FIGURES = {
    "kl": "mean KL divergence from the original, nats",
    "top1_agreement": "share of tokens with the original's first choice",
    "perplexity_ratio": "perplexity relative to the original",
}


def encode_bom(release: Mapping[str, Any], timestamp: str | None) -> bytes:
    """The bill of a release, by its release.json. The same release gives the same bytes: the serial number is a hash
    over everything else, and a `timestamp` is there only where one is given."""
    source = _source(release)
    components = [source, *(_artifact(release, one) for one in release["artifacts"])]
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            **({} if timestamp is None else {"timestamp": timestamp}),
            "tools": {"components": [{"type": "application", "name": "quantkit", "version": __version__}]},
            "component": {
                "type": MODEL,
                "bom-ref": "release",
                "name": release["name"],
                **_licences(release),
                "description": f"artifacts of {release['model']['name']}",
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "release", "dependsOn": [one["bom-ref"] for one in components[1:]]},
            *({"ref": one["bom-ref"], "dependsOn": ["source"]} for one in components[1:]),
        ],
    }
    body = json.loads(dump_json(body))
    return (dump_json({**body, "serialNumber": _serial(body)}, indent=1) + "\n").encode()


def is_own_bom(path: Path) -> bool:
    """Whether a file is a bill that quantkit wrote and nobody changed."""
    try:
        body = parse_json_object(read_bounded(path, MAX_BYTES), path, values=MAX_VALUES)
    except InputError:
        return False
    serial = body.pop("serialNumber", None)
    return bool(serial == _serial(body))


def _serial(body: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(canonical_json(body)).digest()
    return f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=5)}"


def _source(release: Mapping[str, Any]) -> dict[str, Any]:
    """What was quantized, with what lies before it."""
    model = release["model"]
    found: dict[str, Any] = {
        "type": MODEL,
        "bom-ref": "source",
        "name": model["name"],
        **_named_on_hub(model["repo"], model["commit"]),
        **_licences(release),
    }
    ancestors = [
        {"type": MODEL, "name": step["name"], **_hashes(step["sha256"]), **_named_on_hub(step["repo"], step["commit"])}
        for step in release["lineage"]
        if step["relation"] not in ("distilled", "quantization-aware")
    ]
    notes = "; ".join(f"{step['name']}: {step['relation']} (by its {step['by']})" for step in release["lineage"])
    if ancestors or notes:
        found["pedigree"] = {
            **({"ancestors": ancestors} if ancestors else {}),
            **({"notes": notes} if notes else {}),
        }
    found["components"] = [_file(file, f"source/{file['name']}") for file in model["files"]]
    return found


def _artifact(release: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    model = release["model"]
    origin = {"type": MODEL, "name": model["name"], **_named_on_hub(model["repo"], model["commit"])}
    whole = _hashes(one["files"][0]["sha256"]) if len(one["files"]) == 1 else {}
    return {
        "type": MODEL,
        "bom-ref": f"artifact/{one['name']}",
        "name": one["name"],
        "version": one["identity"],
        **whole,
        **_licences(release),
        "pedigree": {
            "ancestors": [origin],
            "notes": f"quantized with the recipe {one['recipe']} by quantkit {release['tool']['version']}",
        },
        "modelCard": _card(release, one),
        "components": [_file(file, f"{one['name']}/{file['name']}") for file in one["files"]],
        "properties": list(_properties(one)),
    }


def _card(release: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    model = release["model"]
    parameters: dict[str, Any] = {"modelArchitecture": model["architecture"]}
    if release["task"]:
        parameters["task"] = release["task"]
    if release["datasets"]:
        parameters["datasets"] = [{"type": "dataset", "name": name} for name in release["datasets"]]
    limits = [warning["message"] for warning in one["warnings"]]
    if one["quality"] is None:
        limits.append("its quality was not measured")
    limits += [f"gate failed: {gate['gate']}" for gate in one["gates"]["judged"] if not gate["ok"]]
    limits += [
        f"{each['consumer']} does not load it: {each['reason']}" for each in one["consumers"] or () if not each["ok"]
    ]
    trade = f"{one['bits_per_weight']:.2f} bits per weight, {size(one['bytes'])}, instead of the original's precision"
    return {
        "modelParameters": parameters,
        **({"quantitativeAnalysis": {"performanceMetrics": list(_metrics(one["quality"]))}} if one["quality"] else {}),
        "considerations": {
            "performanceTradeoffs": [trade],
            **({"technicalLimitations": limits} if limits else {}),
        },
    }


def _metrics(quality: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key, words in FIGURES.items():
        found = quality[key]
        if found is not None:
            bounds = {"lowerBound": found["low"], "upperBound": found["high"]}
            known = {name: repr(float(value)) for name, value in bounds.items() if value is not None}
            yield {
                "type": words,
                "value": repr(float(found["value"])),
                "slice": quality["data"],
                **({"confidenceInterval": known} if known else {}),
            }


def _properties(one: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    said = {"recipe": one["recipe"], "container": one["container"], "role": one["role"], "kind": one["kind"]}
    said |= {"bytes": one["bytes"], "bits_per_weight": one["bits_per_weight"], "gates": one["gates"]["verdict"]}
    quality = one["quality"] or {}
    for key in FIGURES:
        if quality.get(key) and quality[key]["standard_error"] is not None:
            said[f"{key}.standard_error"] = quality[key]["standard_error"]
    yield from ({"name": f"quantkit:{key}", "value": str(value)} for key, value in said.items())


def _file(file: Mapping[str, Any], ref: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": ref, "name": file["name"], **_hashes(file["sha256"])}


def _hashes(sha256: str | None) -> dict[str, Any]:
    return {"hashes": [{"alg": "SHA-256", "content": sha256}]} if sha256 else {}


def _named_on_hub(repo: str | None, commit: str | None) -> dict[str, Any]:
    if not repo or not REPOSITORY.fullmatch(repo):
        return {}
    version = {"version": commit} if commit else {}
    purl = f"pkg:huggingface/{repo}" + (f"@{commit.lower()}" if commit else "")
    return {**version, "purl": purl, "externalReferences": [_website(repo)]}


def _website(repo: str) -> dict[str, str]:
    return {"type": "website", "url": f"https://huggingface.co/{repo}"}


def _licences(release: Mapping[str, Any]) -> dict[str, Any]:
    said = release["license"]
    entries = []
    for word in said["ids"]:
        known = spdx(word)
        entries.append({"license": {"id": known} if known else {"name": said["name"] or word}})
    if not entries and said["name"]:
        entries = [{"license": {"name": said["name"]}}]
    link = said["link"]
    if entries and link and link.startswith(("https://", "http://")) and link.isascii() and not set(link) & set(' <>"'):
        entries[0]["license"]["url"] = link
    unique = {dump_json(entry): entry for entry in entries}
    return {"licenses": list(unique.values())} if unique else {}
