"""An artifact that is there already: is it what would be made, and was everything looked at that is asked for now?

Its manifest says what it is, and files and source are hashed against that. But whoever can write the files can write a
manifest to them. So a manifest is believed that carries the seal of this user's key; for any other, rows of every
tensor are made anew from the source and compared, byte for byte. A calibrated checkpoint cannot be made anew without
hours of work: of another user's making it is not believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from quantkit.errors import QuantkitError
from quantkit.families.model import ModelTensor
from quantkit.filling.slabs import encode_slab
from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.pipeline.outputs import Artifact
from quantkit.pipeline.pack import draft_manifest, write_record
from quantkit.pipeline.prepared import Prepared
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import Slab, cut
from quantkit.plan.together import siblings
from quantkit.quality.checks.base import Check, Verification
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.storage.keys import user_key
from quantkit.units import counted
from quantkit.untrusted import open_input

SAMPLED_WEIGHTS = 1 << 18  # of a tensor; smaller ones are compared as a whole
SAMPLED_LAYERS = 24
READ_BYTES = 8 << 20


def believed(prepared: Prepared, plan: Plan, artifact: Artifact) -> Artifact | None:
    """An artifact that is there, by a manifest that this user made, or that is made anew now that its files were
    compared with the source. None where that fails."""
    if artifact.manifest.made_with(user_key()):
        return artifact
    if artifact.manifest.replaced:
        return None  # another user's, and no more what the plan says file by file
    if not made_from(plan, prepared.checkpoint, artifact.paths).ok:
        return None
    facts = {
        "source": prepared.origin.facts(),
        "source_files": prepared.origin.files,
        "checks": [],
        "timings": {},
        **prepared.calibration_facts(plan),
    }
    draft = draft_manifest(plan, facts)
    tensors = tuple(
        msgspec.structs.replace(t, sha256=_hash(artifact.paths[t.file], t.offset, t.nbytes)) for t in draft.tensors
    )
    manifest = replace(draft, artifact=artifact.manifest.artifact, tensors=tensors)
    write_record(manifest, artifact.path)
    return replace(artifact, manifest=manifest)


def record_checks(artifact: Artifact, seen: Verification) -> Artifact:
    """Enter looks that were taken now in the manifest. Raises VerificationError for one that failed."""
    seen.require(artifact.path)
    new = {check.name for check in seen.checks}
    kept = [check for check in artifact.manifest.facts["checks"] if check["check"] not in new]
    manifest = replace(artifact.manifest, facts={**artifact.manifest.facts, "checks": [*seen.as_json(), *kept]})
    write_record(manifest, artifact.path)
    return replace(artifact, manifest=manifest)


def _hash(path: Path, offset: int, nbytes: int) -> str:
    file = open_input(path)
    try:
        digest = hashlib.sha256()
        for start in range(offset, offset + nbytes, READ_BYTES):
            digest.update(file.read(start, min(start + READ_BYTES, offset + nbytes)).data)
        return digest.hexdigest()
    finally:
        file.close()


def made_from(plan: Plan, checkpoint: Checkpoint, paths: Sequence[Path]) -> Check:
    """Whether files hold what the source gives: sampled rows or layers are made anew and compared byte for byte."""
    if plan.way == "blocks":
        return Check("origin", False, "what calibration gave cannot be made anew without calibrating")
    try:
        headers = [number for number, file in enumerate(plan.files) if not _begins(paths[number], file.header)]
        if headers:
            return Check("origin", False, f"{paths[headers[0]].name} does not begin as planned")
        wrong = (_wrong_slab if plan.way == "slabs" else _wrong_layer)(plan, checkpoint, paths)
    except QuantkitError as error:
        return Check("origin", False, f"the files cannot be compared with the source: {error.message}")
    if wrong is not None:
        return Check("origin", False, f"{wrong} does not hold what the source gives")
    return Check("origin", True, f"{counted(len(plan.tensors), 'tensor')} made anew in part, byte for byte")


def _begins(path: Path, header: bytes) -> bool:
    file = open_input(path)
    try:
        return file.nbytes >= len(header) and file.read(0, len(header)).tobytes() == header
    finally:
        file.close()


def _wrong_slab(plan: Plan, checkpoint: Checkpoint, paths: Sequence[Path]) -> str | None:
    """The first tensor of a GGUF file that is not what the source gives; of large ones some rows are made anew."""
    return next((unit.name for unit in plan.units if not _same(checkpoint, unit, paths)), None)


def _same(checkpoint: Checkpoint, unit: Unit, paths: Sequence[Path]) -> bool:
    [planned] = unit.outputs
    row_bytes = planned.nbytes // unit.tensor.rows
    file = open_input(paths[planned.file])
    try:
        for slab in _sampled(unit.tensor):
            start = planned.offset + slab.start * row_bytes
            there = file.read(start, start + (slab.stop - slab.start) * row_bytes)
            if not np.array_equal(there, encode_slab(checkpoint, unit, slab).reshape(-1)):
                return False
    finally:
        file.close()
    return True


def _sampled(tensor: ModelTensor) -> list[Slab]:
    """A tensor in slabs as they are quantized, or where it is large some rows of each slab."""
    slabs = list(cut(tensor))
    if tensor.rows * tensor.cols <= SAMPLED_WEIGHTS:
        return slabs
    unit = tensor.unit
    step = max(SAMPLED_WEIGHTS // len(slabs) // tensor.cols // unit, 1) * unit
    return [replace(slab, stop=min(slab.start + step, slab.stop)) for slab in slabs]


def _wrong_layer(plan: Plan, checkpoint: Checkpoint, paths: Sequence[Path]) -> str | None:
    """The first tensor of a checkpoint that is not what the source gives; of layers some are made anew."""
    stored = _parts([path for path in paths if path.suffix == ".safetensors"])
    for unit in plan.units:
        if unit.copy:
            ref = checkpoint.ref(unit.source.tensor)
            if not np.array_equal(stored[unit.name].data.reshape(-1), ref.read_packed(0, ref.info.rows).reshape(-1)):
                return unit.name
    from quantkit.filling.layers import layout_of, rounded  # for checkpoints alone

    groups = siblings(plan.rounded)
    for group in groups[:: max(len(groups) // SAMPLED_LAYERS, 1)]:
        for unit, quantized in zip(group, rounded(checkpoint, group, plan.method), strict=True):
            for made in layout_of(unit).pack(unit.name, quantized):
                if not _equal(stored[made.entry.name], made):
                    return unit.name
    return None


@record
class _Parts(Mapping[str, PackedTensor]):
    """The tensors of finished files, by quantkit's own reader."""

    places: Mapping[str, tuple[Path, Entry, int]]

    def __getitem__(self, name: str) -> PackedTensor:
        path, entry, start = self.places[name]
        with closing(open_input(path)) as file:
            return PackedTensor(entry, file.read(start, start + entry.nbytes))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _parts(paths: Sequence[Path]) -> _Parts:
    """The tensors of safetensors files. Raises InputError for one that does not parse."""
    places = {}
    for path in paths:
        for name, found in read_safetensors(path).tensors.items():
            places[name] = (path, Entry(name, found.dtype, found.shape), found.start)
    return _Parts(places)


def _equal(stored: PackedTensor, made: PackedTensor) -> bool:
    return stored.entry == made.entry and np.array_equal(stored.data.reshape(-1), made.data.reshape(-1))
