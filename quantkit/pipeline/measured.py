"""Measurements that lie beside a source: what `eval`, `convert --gate` and `tune` wrote of recipes of this very model.

    *.jsonl            lines of `eval --append` (quantkit.eval-history/1)
    *.json             what `eval --json` printed (quantkit.eval/1), with the error behind it where a gate failed
    *.manifest.json    of artifacts that were gated (quantkit.manifest/1)

Whatever else lies there is passed over. A measurement counts when the hashes in it are those of the source's files, and
not on text that the artifact was calibrated on: it looks better there than elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isfinite, log
from pathlib import Path
from typing import Any

from quantkit.errors import InputError, QuantkitError
from quantkit.evaluation.gates import RETAINED
from quantkit.pipeline.report import objects
from quantkit.recipes.read import recipe_names
from quantkit.records import record
from quantkit.report.records import FileRecord
from quantkit.report.sealed import identity
from quantkit.untrusted import parse_json_object, read_bounded

MAX_FILES, MAX_BYTES, MAX_LINES = 200, 16 << 20, 10_000
SUFFIXES = (".jsonl", ".json")


@record
class Measurement:
    """A recipe's distance from the original, in nats, with the upper 95 % bounds that gates ask, None without any."""

    recipe: str
    nbytes: int
    kl: float
    kl_high: float | None
    ratio_high: float | None
    tokens: int
    where: str

    def passes(self, profile: str) -> bool | None:
        """Whether it keeps what a profile asks; None where it says too little."""
        kept = RETAINED[profile]
        if self.kl_high is None:
            return None
        if self.kl_high > -log(kept):
            return False
        return None if self.ratio_high is None else self.ratio_high <= 1 / kept

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "bytes": self.nbytes,
            "kl": self.kl,
            "kl_high": self.kl_high,
            "perplexity_ratio_high": self.ratio_high,
            "tokens": self.tokens,
            "record": self.where,
        }


@record
class _Claim:
    """A measurement, and what it says of its source: one hash over all files, or those of the files."""

    measurement: Measurement
    reference: str | None
    files: frozenset[str]


def measurements(places: Sequence[Path], source_files: Callable[[], tuple[FileRecord, ...]]) -> tuple[Measurement, ...]:
    """Those of the source, of each recipe the one read last. `places` are files and folders; `source_files` hashes the
    source, and is asked only where something claims to be of it. Raises InputError for a place that does not exist."""
    claims = [claim for path in _files(places) for claim in _claims(path)]
    if not claims:
        return ()
    files = source_files()
    whole, each = identity("original", files), {file.sha256 for file in files}
    found = {
        c.measurement.recipe: c.measurement for c in claims if c.reference == whole or (c.files and c.files <= each)
    }
    return tuple(found.values())


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            with suppress(OSError):
                named = sorted(p for p in place.iterdir() if p.suffix in SUFFIXES and p.is_file())
                yield from named[:MAX_FILES]
        elif place.is_file():
            yield place
        else:
            raise InputError(f"{place} does not exist", path=str(place), hint="give a file or folder with --records")


def _claims(path: Path) -> Iterator[_Claim]:
    """What a file says of measurements; nothing for what is something else, or damaged."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return
        if path.suffix == ".jsonl":
            text = read_bounded(path, MAX_BYTES).decode("utf-8", "replace")
            bodies = [_object(line, path) for line in text.splitlines()[:MAX_LINES] if "eval-history/1" in line[:80]]
        else:
            raw = read_bounded(path, MAX_BYTES)
            bodies = [body for _, body in objects(path, raw)] if b"quantkit." in raw[:400] else []
    except (OSError, QuantkitError):
        return
    for body in bodies:
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # of what strangers wrote
            yield from READERS.get(str(body.get("schema")), _nothing)(body, path)


def _object(line: str, path: Path) -> Mapping[str, Any]:
    try:
        return parse_json_object(line.encode(), path)
    except QuantkitError:
        return {}


def _nothing(body: Mapping[str, Any], path: Path) -> Iterator[_Claim]:
    yield from ()


def _of_history(body: Mapping[str, Any], path: Path) -> Iterator[_Claim]:
    recipe = body.get("recipe") or _named(str(body["name"]))
    if recipe and body.get("held_out") is not False:
        yield _Claim(_measurement(recipe, body, path), str(body["reference"]), frozenset())


def _of_eval(body: Mapping[str, Any], path: Path) -> Iterator[_Claim]:
    for one in body["artifacts"]:
        recipe = one.get("recipe") or _named(str(one["name"]))
        if recipe and one.get("held_out") is not False:
            yield _Claim(_measurement(recipe, one, path), str(body["reference"]["sha256"]), frozenset())


def _of_manifest(body: Mapping[str, Any], path: Path) -> Iterator[_Claim]:
    for check in body["checks"]:
        if "gates" in check and "kl" in check:
            ratio = {gate["metric"]: gate for gate in check["gates"]}.get("ppl_ratio")
            said = {
                **check,
                "perplexity_ratio": {"high": ratio["bound"]} if ratio else {},
                "tokens": check["data"]["tokens"],
            }
            files = frozenset(str(file["sha256"]) for file in body["source"]["files"])
            yield _Claim(_measurement(str(body["recipe"]["name"]), said, path), None, files)


READERS: Mapping[str, Callable[[Mapping[str, Any], Path], Iterator[_Claim]]] = {
    "quantkit.eval-history/1": _of_history,
    "quantkit.eval/1": _of_eval,
    "quantkit.manifest/1": _of_manifest,
}


def _measurement(recipe: str, said: Mapping[str, Any], path: Path) -> Measurement:
    kl, ratio = said["kl"], said.get("perplexity_ratio") or {}
    return Measurement(
        str(recipe), int(said["bytes"]), _number(kl["value"]) or 0.0, _number(kl.get("high")),
        _number(ratio.get("high")), int(said["tokens"]), path.name,
    )  # fmt: skip


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{value!r:.40} is no number")
    return float(value)


def _named(name: str) -> str | None:
    """The recipe that a GGUF file is called after: "My-Model-Q4_K_M.gguf"."""
    stem = json.dumps(name).strip('"').lower().removesuffix(".gguf")
    found = [recipe for recipe in recipe_names() if stem.endswith(f"-{recipe}")]
    return max(found, key=len, default=None)
