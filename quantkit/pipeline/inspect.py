"""The inspect stage: what a file or checkpoint says of itself, from headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.errors import InputError
from quantkit.events import Sink, ignore
from quantkit.formats.gguf import read_gguf, shard_paths
from quantkit.metadata import KeyValue
from quantkit.report.manifest import manifest_path, read_manifest
from quantkit.source import open_source
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import TensorInfo
from quantkit.untrusted import require_path

SHOWN_ARRAY = 4
SHOWN_TEXT = 120


@dataclass(frozen=True)
class Inspection:
    """Header facts. The type of a tensor says how it is stored.

    `origin` is the provenance from a manifest or from quantkit's own keys, {} without either.
    """

    kind: str
    name: str
    nbytes: int
    metadata: tuple[tuple[str, str, str], ...]
    tensors: tuple[TensorInfo, ...]
    origin: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Inspection({self.kind!r}, {self.name!r}, {len(self.tensors)} tensors, {self.nbytes:,} bytes)"

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
    checkpoint = open_source(spec, offline=offline, emit=emit)
    tensors = tuple(replace(t, dtype=t.stored_as or t.dtype) for t in checkpoint.tensors().values())
    facts = tuple((key, type(value).__name__, _short(value)) for key, value in checkpoint.config.items())
    if isinstance(checkpoint, QuantizedCheckpoint):
        section = "quantization_config"
        facts += tuple((f"{section}.{k}", type(v).__name__, _short(v)) for k, v in checkpoint.quantization.items())
    origin = {"repo": checkpoint.repo, "commit": checkpoint.commit} if checkpoint.repo else {}
    checkpoint.close()
    return Inspection("checkpoint", checkpoint.name, sum(t.nbytes for t in tensors), facts, tensors, origin)


def _inspect_gguf(path: Path) -> Inspection:
    files = [read_gguf(shard) for shard in shard_paths(path)]
    tensors = tuple(TensorInfo(t.name, t.qtype, t.shape, t.nbytes) for f in files for t in f.tensors)
    facts = tuple((kv.key, _kind(kv), _short(kv.value)) for kv in files[0].metadata)
    return Inspection("gguf", path.name, sum(f.nbytes for f in files), facts, tensors, _origin(path, files[0].metadata))


def _origin(path: Path, metadata: Sequence[KeyValue]) -> dict[str, Any]:
    keys = {kv.key: kv.value for kv in metadata if kv.key.startswith("quantkit.")}
    try:
        manifest = read_manifest(manifest_path(path)) if manifest_path(path).is_file() else None
    except InputError:
        manifest = None
    if manifest is None:
        return keys
    return {**keys, "source": dict(manifest.source), "recipe": dict(manifest.recipe), "identity": manifest.identity}


def _kind(kv: KeyValue) -> str:
    return f"{kv.kind}[{len(kv.value)}]" if kv.array and not isinstance(kv.value, int | float) else kv.kind


def _short(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        items = [_short(v) for v in value[:SHOWN_ARRAY]]  # type: ignore[index]
        more = ", ..." if len(value) > SHOWN_ARRAY else ""  # type: ignore[arg-type]
        return f"[{', '.join(items)}{more}]"
    text = str(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}... ({len(text):,} characters)"
