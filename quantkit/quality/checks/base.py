"""The looks that verify takes at an artifact, each a function that returns a Check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import VerificationError
from quantkit.families.model import Model, ModelTensor
from quantkit.formats.gguf.reader import read_gguf
from quantkit.formats.gguf.types import GGUFFile, GGUFTensor
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.formats.safetensors.writer import INDEX
from quantkit.machine import core_count, worker_pool
from quantkit.plan.carried import CONFIG
from quantkit.plan.reading import Slab, cut, order_rows, read_slab
from quantkit.qtypes import base
from quantkit.quality.tensor_errors import TensorError, compare, decode_gguf, undecodable
from quantkit.report.manifest import Manifest
from quantkit.source import Checkpoint

WORST_TENSORS = 5
WRITTEN_JSON = frozenset({CONFIG, INDEX, "quantize_config.json", "hf_quant_config.json"})


@dataclass(frozen=True)
class Check:
    """The outcome of one look. `ok` is None where it was not asked for or could not be made; `data` is for JSON, and
    `hint` is what helps where converting again does not."""

    name: str
    ok: bool | None
    detail: str
    data: dict[str, Any] = field(default_factory=dict)
    hint: str = ""


@dataclass(frozen=True)
class Verification:
    """All looks at one artifact."""

    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        return f"Verification(ok={self.ok}, {self.summary()})"

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)

    def summary(self) -> str:
        """One line: "files ok · structure ok · numbers ok (worst blk.0.attn_k 22.1 dB)"."""
        words = {True: "ok", False: "FAILED", None: "not checked"}
        return " · ".join(f"{c.name} {words[c.ok]}" + (f" ({c.detail})" if c.detail else "") for c in self.checks)

    def as_json(self) -> list[dict[str, Any]]:
        return [{"check": c.name, "ok": c.ok, "detail": c.detail, **c.data} for c in self.checks]

    def require(self, path: Path | str) -> None:
        """Raise VerificationError naming the failed looks."""
        failed = [c for c in self.checks if c.ok is False]
        if failed:
            what = "; ".join(f"{c.name}: {c.detail}" for c in failed)
            again = "do not use this file; convert again, and report it if it fails again"
            hint = next((c.hint for c in failed if c.hint), again)
            raise VerificationError(f"{Path(path).name} does not verify: {what}", path=str(path), hint=hint)


def check_structure(files: Sequence[GGUFFile], manifest: Manifest | None = None) -> Check:
    """What the parser accepted is what the manifest promises, and nothing follows the last tensor."""
    for file in files:
        end = max((_padded(t.offset + t.nbytes, file.alignment) for t in file.tensors), default=file.data_start)
        if file.nbytes != end:
            return Check("structure", False, f"{file.path.name} has {file.nbytes - end:+,} bytes after its last tensor")
    found = [
        (t.name, t.qtype, t.shape, number, t.offset, t.nbytes)
        for number, file in enumerate(files)
        for t in file.tensors
    ]
    if manifest is not None:
        promised = [(t.name, t.qtype, t.shape, t.file, t.offset, t.nbytes) for t in manifest.tensors]
        for have, want in zip(found, promised, strict=False):
            if have != want:
                return Check("structure", False, f"tensor {have[0]} is {have[1:]}, expected {want}")
        if len(found) != len(promised):
            return Check("structure", False, f"{len(found)} tensors, expected {len(promised)}")
    return Check("structure", True, "", {"tensors": len(found)})


def check_part(path: Path) -> Check:
    """One finished file on its own: a GGUF or safetensors file that ends after its last tensor, or valid JSON."""
    if path.suffix == ".gguf":
        return check_structure([read_gguf(path)])
    if path.suffix == ".safetensors":
        return Check("structure", True, "", {"tensors": len(read_safetensors(path).tensors)})
    if path.name in WRITTEN_JSON:
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            return Check("structure", False, f"{path.name} is not JSON: {error}")
    return Check("structure", True, "")


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def check_numbers(
    files: Sequence[GGUFFile],
    checkpoint: Checkpoint,
    model: Model,
    *,
    sample_rows: int | None = None,
    threads: int | None = None,
) -> Check:
    """Decode tensors with the gguf package and compare with the source.

    With `sample_rows` only about that many evenly spaced rows of each tensor are compared. A tensor fails when its
    signal to noise ratio is below the floor of its type. Where the package does not know a type yet, the check counts
    as not made unless another tensor fails.
    """
    stored = {t.name: (file, t) for file in files for t in file.tensors}
    missing = [t.name for t in model.tensors if t.name not in stored]
    if missing:
        return Check("numbers", False, f"{len(missing)} tensors of the source are missing, first {missing[0]}")
    unknown = {t.name for t in model.tensors if undecodable(frozenset({stored[t.name][1].qtype}))}
    known = [t for t in model.tensors if t.name not in unknown]
    with worker_pool(threads or core_count()) as pool:
        jobs = [pool.submit(_tensor_error, checkpoint, t, *stored[t.name], sample_rows) for t in known]
        errors = [job.result() for job in jobs]
    found = _judge(errors, sample_rows)
    why = undecodable(frozenset(stored[name][1].qtype for name in unknown))
    if why is None or found.ok is False:
        return found
    detail = f"{len(unknown)} of {len(model.tensors)} tensors are not compared, because {why}; others: {found.detail}"
    return Check("numbers", None, detail, {**found.data, "not_compared": len(unknown)})


def _judge(errors: Sequence[TensorError], sample_rows: int | None) -> Check:
    lossy = sorted((e for e in errors if not isinf(e.snr_db) or e.snr_db < 0), key=lambda e: e.snr_db)
    failed = [e for e in errors if e.snr_db < base.get(e.qtype).floor_db]
    worst = [{"tensor": e.name, "type": e.qtype, "snr_db": round(e.snr_db, 2)} for e in lossy[:WORST_TENSORS]]
    data = {"worst": worst, "compared_weights": sum(e.weights for e in errors), "sampled": sample_rows is not None}
    if failed:
        first = min(failed, key=lambda e: e.snr_db)
        what = f"{len(failed)} tensors are far from the source, worst {first.name} {first.qtype} {first.snr_db:.1f} dB"
        return Check("numbers", False, what, data)
    what = f"worst {lossy[0].name} {lossy[0].snr_db:.1f} dB" if lossy else "exact"
    return Check("numbers", True, what, data)


def _tensor_error(
    checkpoint: Checkpoint, tensor: ModelTensor, file: GGUFFile, stored: GGUFTensor, sample_rows: int | None
) -> TensorError:
    """Error of one tensor, summed over its compared slabs."""
    cols = tensor.cols
    qtype = base.get(stored.qtype)
    row_bytes = qtype.row_bytes(cols)
    total = TensorError(tensor.name, qtype.name, 0, 0.0, 0.0, 0.0)
    with file.path.open("rb") as data:
        for slab in _sample(tensor, sample_rows):
            data.seek(stored.offset + slab.start * row_bytes)
            raw = np.frombuffer(data.read((slab.stop - slab.start) * row_bytes), dtype=np.uint8)
            source = read_slab(checkpoint, tensor, slab.start, slab.stop)
            ordered = order_rows(tensor, source.view(np.uint8)).view(np.float32)
            decoded = decode_gguf(raw.reshape(-1, row_bytes), stored.type_id)
            total = total + compare(tensor.name, qtype.name, ordered, decoded.reshape(ordered.shape))
    return total


def _sample(tensor: ModelTensor, sample_rows: int | None) -> list[Slab]:
    """Slabs of the whole tensor, or evenly spaced units of its rows."""
    rows, cols = tensor.rows, tensor.cols
    if sample_rows is None or rows <= sample_rows or cols == 1:
        return list(cut(tensor))
    unit = len(tensor.row_order.order) if tensor.row_order else 1
    units = rows // unit
    picked = sorted({i * units // max(sample_rows // unit, 1) for i in range(max(sample_rows // unit, 1))})
    return [Slab(i * unit, (i + 1) * unit, 0) for i in picked]


@dataclass(frozen=True)
class VerifyOptions:
    """How to look. `engine` is None or "llama.cpp"; `say` is a text for it to continue; `sample_rows` of each tensor
    are compared, None for all."""

    engine: str | None = None
    say: str | None = None
    sample_rows: int | None = None
    threads: int | None = None
    offline: bool = False
    pre: str | None = None


STANDARD = VerifyOptions()
