"""The inspect stage: what a file or checkpoint says of itself, from headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.events import Sink, ignore
from quantkit.formats.gguf.file import GGUFFile, parse_gguf, read_gguf, shard_paths
from quantkit.metadata import KeyValue
from quantkit.plan.encoder import parts_beside
from quantkit.records import record
from quantkit.report.manifest import manifest_path, read_manifest
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import TensorInfo
from quantkit.untrusted import require_path

SHOWN_ARRAY = 4
SHOWN_TEXT = 120
SHOWN_TABLE = 64


@record
class Fact:
    """A value of the header, as it is: a number, a truth, a text, a list of these or a table.

    Of a list the first SHOWN_ARRAY, of a text the first SHOWN_TEXT characters; `count` says of how many, None where
    the value is whole. Infinities and NaN, which JSON lacks, are texts.
    """

    key: str
    kind: str
    value: Any
    count: int | None = None

    def text(self) -> str:
        """The value in words, short."""
        more = f" ({self.count:,} characters)" if isinstance(self.value, str) and self.count is not None else ""
        if isinstance(self.value, list):
            return f"[{', '.join(map(str, self.value))}{', ...' if self.count is not None else ''}]"
        return f"{self.value}{'...' if more else ''}{more}"

    def as_json(self) -> dict[str, Any]:
        return {"type": self.kind, "value": self.value, **({} if self.count is None else {"count": self.count})}


@record
class Inspection:
    """Header facts. The type of a tensor says how it is stored.

    `origin` is the provenance from a manifest, with the warnings of when it was made, or from quantkit's own keys; of a
    checkpoint its place on the Hub, with what the GGUF file of its language model would lack as warnings; {} without.
    """

    kind: str
    name: str
    nbytes: int
    facts: tuple[Fact, ...]
    tensors: tuple[TensorInfo, ...]
    origin: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Inspection({self.kind!r}, {self.name!r}, {len(self.tensors)} tensors, {self.nbytes:,} bytes)"

    @property
    def metadata(self) -> tuple[tuple[str, str, str], ...]:
        """(key, type, value in words) of every fact."""
        return tuple((fact.key, fact.kind, fact.text()) for fact in self.facts)

    def by_type(self) -> list[tuple[str, int, int, int]]:
        """(type, tensors, weights, bytes), largest first."""
        tensors: Counter[str] = Counter()
        weights: Counter[str] = Counter()
        nbytes: Counter[str] = Counter()
        for t in self.tensors:
            tensors[t.dtype] += 1
            weights[t.dtype] += t.elements
            nbytes[t.dtype] += t.nbytes
        return [(name, tensors[name], weights[name], total) for name, total in nbytes.most_common()]


def inspect(spec: Path | str, *, offline: bool = False, emit: Sink = ignore) -> Inspection:
    """Look at a GGUF file (any shard), a checkpoint folder or a Hub repository. Safe on hostile files."""
    path, spec = Path(spec), os.fspath(spec)
    if path.suffix == ".gguf":
        require_path(path)
        if path.is_file():
            return _inspect_gguf(path)
    checkpoint = open_source(spec, offline=offline, emit=emit, as_stored=True, headers=True)
    if checkpoint.kind == "gguf":  # one file of a repository of the Hub
        shards = [file.opened for file in checkpoint.files() if file.opened]
        found = _gguf_facts(Path(checkpoint.files()[0].path), [parse_gguf(shard) for shard in shards])
        checkpoint.close()
        return replace(found, origin={**found.origin, "repo": checkpoint.repo, "commit": checkpoint.commit})
    tensors = tuple(replace(t, dtype=t.stored_as or t.dtype) for t in checkpoint.tensors().values())
    facts = tuple(_fact(key, _type(value), value) for key, value in checkpoint.config.items())
    if isinstance(checkpoint, QuantizedCheckpoint):
        section = "quantization_config"
        facts += tuple(_fact(f"{section}.{k}", _type(v), v) for k, v in checkpoint.quantization.items())
    origin: dict[str, Any] = {"repo": checkpoint.repo, "commit": checkpoint.commit} if checkpoint.repo else {}
    beside = [{"code": code, "message": message} for code, message in parts_beside(checkpoint)]
    origin |= {"warnings": beside} if beside else {}
    checkpoint.close()
    return Inspection("checkpoint", checkpoint.name, sum(t.nbytes for t in tensors), facts, tensors, origin)


def _inspect_gguf(path: Path) -> Inspection:
    return _gguf_facts(path, [read_gguf(shard) for shard in shard_paths(path)])


def _gguf_facts(path: Path, files: Sequence[GGUFFile]) -> Inspection:
    tensors = tuple(TensorInfo(t.name, t.qtype, t.shape, t.nbytes) for f in files for t in f.tensors)
    facts = tuple(_fact(kv.key, _kind(kv), kv.value) for kv in files[0].metadata)
    return Inspection("gguf", path.name, sum(f.nbytes for f in files), facts, tensors, _origin(path, files[0].metadata))


def _origin(path: Path, metadata: Sequence[KeyValue]) -> dict[str, Any]:
    keys = {kv.key: kv.value for kv in metadata if kv.key.startswith("quantkit.")}
    try:
        manifest = read_manifest(manifest_path(path)) if manifest_path(path).is_file() else None
    except InputError:
        manifest = None
    if manifest is None:
        return keys
    facts = {"source": dict(manifest.source), "recipe": dict(manifest.recipe), "identity": manifest.identity}
    said = manifest.facts.get("warnings")
    return {**keys, **facts, **({"warnings": said} if said else {})}


def _kind(kv: KeyValue) -> str:
    return f"{kv.kind}[{len(kv.value)}]" if kv.array and not isinstance(kv.value, int | float) else kv.kind


def _type(value: Any) -> str:
    """What Python calls a value of a JSON file."""
    return "float" if isinstance(value, float) else type(value).__name__


def _fact(key: str, kind: str, value: Any) -> Fact:
    """A value in types of JSON, and bounded."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return Fact(key, kind, value[:SHOWN_TEXT], len(value) if len(value) > SHOWN_TEXT else None)
    if isinstance(value, Mapping):
        shown = {str(k): _plain(v) for k, v in list(value.items())[:SHOWN_TABLE]}
        return Fact(key, kind, shown, len(value) if len(value) > SHOWN_TABLE else None)
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        count = len(value)
        return Fact(key, kind, [_plain(v) for v in value[:SHOWN_ARRAY]], count if count > SHOWN_ARRAY else None)
    return Fact(key, kind, _plain(value))


def _plain(value: Any) -> Any:
    """A scalar in types of JSON; what is nested deeper as a short text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."
