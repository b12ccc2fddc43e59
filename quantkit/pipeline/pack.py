"""The pack stage: finished files get their final names, then their manifest and checksums."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantkit import __version__
from quantkit.errors import ExistsError, InputError
from quantkit.events import Published, Sink, ignore
from quantkit.formats.gguf import read_gguf
from quantkit.pipeline.verify import check_structure
from quantkit.plan import Plan
from quantkit.qtypes import NUMERICS
from quantkit.report.manifest import (
    FileRecord,
    Manifest,
    TensorRecord,
    identity,
    manifest_path,
    read_manifest,
)
from quantkit.report.sizes import size_report
from quantkit.storage import Job, hash_file, update_sums, write_small

NAMED_VERSIONS = ("numpy", "numba", "gguf", "tokenizers", "sentencepiece")


@dataclass(frozen=True)
class Artifact:
    """A published artifact. `built` is False where it was already there and is what would have been written."""

    path: Path
    files: tuple[FileRecord, ...]
    manifest: Path
    identity: str
    built: bool

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.files)


def target_paths(plan: Plan, first: Path) -> tuple[Path, ...]:
    """The final path of each planned file: the planned names, in the folder of `first`."""
    return tuple(first.with_name(f.name) for f in plan.files)


def source_records(hashes: Mapping[str, str], sizes: Mapping[str, int]) -> tuple[FileRecord, ...]:
    """Source files as manifest records, in name order."""
    return tuple(FileRecord(name, sizes[name], hashes[name]) for name in sorted(hashes))


def already_built(targets: Sequence[Path], digest: str, hash_source: Callable[[], tuple[FileRecord, ...]]) -> bool:
    """Whether `targets` are exactly what a plan with this digest would write from the present source.

    Sizes and the plan digest are compared first; only when they agree are the source and the artifact hashed.
    """
    if not all(t.is_file() for t in targets):
        return False
    try:
        manifest = read_manifest(manifest_path(targets[0]))
    except InputError:
        return False
    sizes = [(t.name, t.stat().st_size) for t in targets]
    if manifest.plan_digest != digest or [(f.name, f.nbytes) for f in manifest.artifact] != sizes:
        return False
    if manifest.identity != identity(digest, hash_source()):
        return False
    return all(hash_file(t) == f.sha256 for t, f in zip(targets, manifest.artifact, strict=True))


def refuse_existing(targets: Sequence[Path], force: bool) -> None:
    """Raise ExistsError when a target is there and may not be replaced."""
    for target in targets:
        if target.exists() and not force:
            hint = "choose another -o, or replace it with --force"
            raise ExistsError(f"{target} exists and is not what this command would write", path=str(target), hint=hint)


def publish(
    plan: Plan, job: Job, targets: Sequence[Path], facts: Mapping[str, Any], *, force: bool, emit: Sink = ignore
) -> Artifact:
    """Give the finished files of `job` their names, then write the manifest and SHA256SUMS, and drop the job.

    Every file is re-read from disk, hashed and structurally checked before it is renamed; the manifest comes last.
    `facts` are the manifest parts that the caller knows: "source", "source_files", "recipe", "timings", "checks".
    """

    def check(part: Path) -> None:
        check_structure([read_gguf(part)], None).require(part)

    if force:
        manifest_path(targets[0]).unlink(missing_ok=True)
    published = job.publish(targets, overwrite=force, check=check)
    records = tuple(FileRecord(p.path.name, p.nbytes, p.sha256) for p in published)
    manifest = _manifest(plan, job, records, facts)
    path = manifest_path(targets[0])
    write_small(path, manifest.encode(), overwrite=True)
    update_sums(path.parent, {r.name: r.sha256 for r in (*records, _record(path))})
    job.discard()
    for file in published:
        emit(Published(str(file.path), file.nbytes, file.sha256))
    return Artifact(targets[0], records, path, manifest.identity, built=True)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.name, path.stat().st_size, hash_file(path))


def _manifest(plan: Plan, job: Job, records: tuple[FileRecord, ...], facts: Mapping[str, Any]) -> Manifest:
    tensors = tuple(
        TensorRecord(
            t.name, t.qtype, t.tensor.shape, t.file, t.offset, t.nbytes, job.records[t.name].sha256, t.fallback_from
        )
        for t in plan.tensors
    )
    return Manifest(
        plan_digest=plan.digest,
        recipe=facts["recipe"],
        source=facts["source"],
        source_files=facts["source_files"],
        artifact=records,
        tensors=tensors,
        tokenizer_sha256=plan.model.tokenizer_sha256,
        facts={
            "tool": {"name": "quantkit", "version": __version__, "numerics": NUMERICS},
            "model": {"family": plan.model.family, "architecture": plan.model.architecture},
            "size": size_report(plan).as_json(),
            "checks": facts["checks"],
            "warnings": [{"code": code, "message": message} for code, message in plan.warnings],
            "versions": {"python": platform.python_version(), **{name: version(name) for name in NAMED_VERSIONS}},
            "platform": f"{platform.system()} {platform.machine()}",
            "timings": facts["timings"],
        },
    )
