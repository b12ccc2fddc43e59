"""The pack stage: finished files get their final names, then their manifest and checksums."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from quantkit import qtypes
from quantkit.errors import InputError, UsageError
from quantkit.events import Published, Sink, ignore
from quantkit.extras import installed_version
from quantkit.jsontext import dump_json
from quantkit.pipeline.outputs import (
    Artifact,
    already_built,
    job_folder,
    names_of,
    older_manifest,
    refuse_existing,
    refuse_inputs,
    refuse_strangers,
    require_place,
    to_retire,
)
from quantkit.plan.base import Plan
from quantkit.plan.sizes import size_report
from quantkit.quality.checks.base import Verification
from quantkit.report.manifest import Manifest, manifest_path, parse_manifest
from quantkit.report.records import FileRecord, TensorRecord
from quantkit.report.sealed import MAX_RECORD_BYTES, MAX_RECORD_VALUES, SEALS, SealedRecord, own_seal
from quantkit.storage import (
    Job,
    PartFile,
    open_job,
    remove_job,
    update_sums,
    user_key,
    write_small,
)
from quantkit.units import counted
from quantkit.untrusted import parse_json_object, read_bounded, require_path, shown
from quantkit.version import __version__

NAMED_VERSIONS = ("numpy", "numba", "gguf", "tokenizers", "sentencepiece")
ANNOUNCED = frozenset({".gguf", ".safetensors", ".dat"})  # what a run is for, and not what goes with it
R = TypeVar("R", bound=SealedRecord)
SERVER_VERSIONS = ("torch", "transformers", "safetensors")


def as_it_is(draft: R) -> R:
    """Settle a draft by leaving it alone."""
    return draft


def draft_manifest(plan: Plan, facts: Mapping[str, Any]) -> Manifest:
    """The manifest of a planned artifact, still without hashes of tensors and files.

    `facts` are the parts that the plan does not know: "source", "source_files", "checks", "timings", and for
    checkpoints "calibration" and "layers".
    """
    return Manifest(
        plan_digest=plan.digest,
        recipe={"name": plan.recipe, **({"plan": plan.core} if plan.core else {})},
        source=facts["source"],
        source_files=facts["source_files"],
        artifact=(),
        tensors=tuple(
            TensorRecord(t.name, t.dtype, t.shape, t.file, t.offset, t.nbytes, "", unit.wanted)
            for unit in plan.units
            for t in unit.outputs
        ),
        tokenizer_sha256=plan.tokenizer_sha256,
        facts={
            "tool": {"name": "quantkit", "version": __version__, "numerics": qtypes.NUMERICS},
            "model": {"family": plan.family, "architecture": plan.architecture, **plan.details, **_kind(plan)},
            "size": size_report(plan).as_json(),
            "checks": facts["checks"],
            "warnings": [{"code": code, "message": message} for code, message in plan.warnings],
            "versions": _versions((*NAMED_VERSIONS, *SERVER_VERSIONS) if plan.is_checkpoint else NAMED_VERSIONS),
            "platform": f"{platform.system()} {platform.machine()}",
            "timings": facts["timings"],
            **({"method": asdict(plan.method)} if plan.method else {}),
            **({"allocation": dict(plan.allocation)} if plan.allocation else {}),
            **{key: facts[key] for key in ("calibration", "layers", "evened", "norms", "preserved") if key in facts},
        },
    )


def _kind(plan: Plan) -> dict[str, str]:
    """What a manifest says of a file that is no model by itself."""
    return {"kind": plan.kind} if plan.is_encoder else {}


def layer_facts(plan: Plan, job: Job) -> dict[str, Any]:
    """What became of every layer of a calibrated checkpoint: losses, damping, tokens."""
    if plan.way != "blocks":
        return {}
    first = {unit.name: job.records[unit.outputs[0].name].extra for unit in plan.rounded}
    return {"layers": [{"name": name, **facts} for name, facts in first.items()]}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: installed_version(name) for name in packages}}


def with_hashes(draft: Manifest, job: Job) -> Manifest:
    """The draft with the hashes of its tensors, all of which `job` has finished."""
    tensors = tuple(msgspec.structs.replace(t, sha256=job.records[t.name].sha256) for t in draft.tensors)
    return replace(draft, tensors=tensors)


def publish(
    draft: R,
    job: Job,
    targets: Sequence[Path],
    *,
    force: bool,
    emit: Sink = ignore,
    settle: Callable[[R], R] = as_it_is,
) -> R:
    """Give the finished files of `job` their names, then write SHA256SUMS and the record, and drop the job.

    Every file is re-read from disk, hashed and structurally checked before the first one is renamed. Between the two
    `settle` may complete the draft, or raise to keep the files from getting a name. The record comes last. An older
    one, and with `force` every file that it alone lists, goes just before the first rename: no record ever describes
    other bytes, and no folder holds files of two artifacts.
    """
    from quantkit.quality.checks.structure import check_part  # once there is something to check

    settled: list[R] = []

    def check(part: Path) -> None:
        Verification((check_part(part),)).require(part)
        if part == job.paths[-1]:
            settled.append(settle(draft))

    def retire() -> tuple[str, ...]:
        names = to_retire(targets, draft.path(targets[0])) if force else ()
        refuse_strangers(targets, (*names, *job.retired))
        return names

    published = job.publish(targets, overwrite=force, check=check, retire=retire)
    files = zip(names_of([p.path for p in published]), published, strict=True)
    records = tuple(FileRecord(name, p.nbytes, p.sha256) for name, p in files)
    record = replace(settled[0] if settled else settle(draft), artifact=records)
    job.require_turn()
    write_record(record, targets[0], job.retired, seal=job.seal)
    job.discard()
    for file in published:
        if file.path.suffix in ANNOUNCED:
            emit(Published(str(file.path), file.nbytes, file.sha256))
    return record


def write_anew(path: Path, data: bytes) -> None:
    """Write a small file, replacing what is there."""
    write_small(path, data, overwrite=True)


def write_record(
    record: SealedRecord,
    first: Path,
    gone: Collection[str] = (),
    *,
    seal: Callable[[Path, bytes], None] = write_anew,
) -> None:
    """Write the record of the files of which `first` is the first, sealed, and before it its line and theirs in
    SHA256SUMS; lines of files that are `gone` go. `seal` writes the record: a job's does so only for its owner."""
    path = record.path(first)
    encoded = record.encode(user_key())
    sums = {f.name: f.sha256 for f in record.artifact} | {path.name: hashlib.sha256(encoded).hexdigest()}
    update_sums(path.parent, sums, drop=gone)
    seal(path, encoded)


# The work folder of `quantkit quantize`: a job, and beside it what `quantkit pack` needs to know of the plan.

WORK_SCHEMA = "quantkit.work/1"
WORK_FILE = "work.json"
COPY_BYTES = 8 << 20


def save_work(folder: Path, job_digest: str, files: Sequence[PartFile], draft: Manifest) -> None:
    """Describe a finished job so that it can be packed without its source.

    The description is sealed with the user's key: opening a job under a changed digest or size would remove its work,
    and what it says of source and recipe goes into the manifest.
    """
    body = {
        "schema": WORK_SCHEMA,
        "job_digest": job_digest,
        "files": [{"name": f.name, "bytes": f.nbytes} for f in files],
        "manifest": {k: v for k, v in json.loads(draft.encode()).items() if k not in SEALS},
    }
    sealed = {**body, "sha256": own_seal(body, user_key())}
    write_small(folder / WORK_FILE, dump_json(sealed, indent=1).encode(), overwrite=True)


def pack(work: Path, out: Path, *, force: bool = False, card: bool = False, emit: Sink = ignore) -> Artifact:
    """Make the artifact of a work folder. The folder is only read, so it can be packed again elsewhere.

    An artifact that is there, of this user's making and what would be written, is left alone. Nothing else that an
    earlier run left counts: every byte is copied again, and compared where a file has its name already.

    `card`: a model card is written beside it; that of the source, where the work folder has it among its files, gives
    its place to it. Raises InputError when the folder is no finished work folder or its bytes
    are not what was written.
    """
    targets = packed_names(work, out)
    if not card:
        return _packed(work, targets, force, emit)
    from quantkit.pipeline.card import require_card_place, write_cards_of  # convert, which packs, seldom needs them

    require_card_place(targets[0].parent, force=force)
    artifact = _packed(work, targets, force, emit)
    write_cards_of([artifact.path], None, force=force)
    return artifact


def _packed(work: Path, targets: tuple[Path, ...], force: bool, emit: Sink) -> Artifact:
    digest, files, draft = _read_work(work)
    refuse_inputs(targets, [path for path in work.rglob("*") if path.is_file()])
    folder, older = job_folder(targets[0], digest), older_manifest(targets)
    found = already_built(older, targets, draft.plan_digest, lambda: draft.source_files)
    if found is not None and found.made_with(user_key()):
        remove_job(folder)  # killed after its last step, before tidying
        return Artifact(targets[0], found, built=False)
    if not os.path.lexists(folder):  # else the job knows what a killed run has published
        refuse_existing(targets, force, older)
    refuse_strangers(targets, to_retire(targets, manifest_path(targets[0])) if force else ())
    with open_job(work.resolve(), digest=digest, files=files) as source:
        missing = [t.name for t in draft.tensors if t.name not in source.records]
        if missing:
            hint = "run the same quantkit quantize command again to finish it"
            raise InputError(
                f"{work}: {counted(len(missing), 'tensor', 'is', 'are')} not finished, first {missing[0]}", hint=hint
            )
        parts = [PartFile(t.name, f.nbytes) for t, f in zip(targets, files, strict=True)]
        with open_job(folder, digest=digest, files=parts) as job:
            _copy(source, job, parts)
            made = publish(with_hashes(draft, job), job, targets, force=force, emit=emit)
            return Artifact(targets[0], made, built=True)


def packed_names(work: Path, out: Path) -> tuple[Path, ...]:
    """The files that `pack` would write."""
    _, files, _ = _read_work(work)
    if out.suffix == ".gguf" and len(files) > 1:
        raise UsageError(f"{work} holds {counted(len(files), 'shard')}", hint="give a folder with -o")
    paths = (out,) if out.suffix == ".gguf" else tuple(out / f.name for f in files)
    require_place(paths, manifest_path(paths[0]))
    return paths


def _read_work(work: Path) -> tuple[str, tuple[PartFile, ...], Manifest]:
    path = work / WORK_FILE
    hint = "give a folder that quantkit quantize finished, for example WORK/Q4_K_M"
    require_path(path)
    if not path.is_file():
        raise InputError(f"{work} is not a finished work folder: no {WORK_FILE}", path=str(work), hint=hint)
    body = parse_json_object(read_bounded(path, MAX_RECORD_BYTES), path, values=MAX_RECORD_VALUES)
    seal = body.pop("sha256", None)
    intact = hmac.compare_digest(str(seal).encode("utf-8", "replace"), own_seal(body, user_key()).encode())
    if body.get("schema") != WORK_SCHEMA or not intact:
        hint = "run the same quantkit quantize command again, as the user who will pack"
        what = f"{shown(path)} was changed, or is of another version, machine or user"
        raise InputError(what, path=str(path), key="sha256", hint=hint)
    files = tuple(PartFile(f["name"], f["bytes"]) for f in body["files"])
    return body["job_digest"], files, parse_manifest(body["manifest"], path, draft=True)


def _copy(source: Job, job: Job, files: Sequence[PartFile]) -> None:
    for number, file in enumerate(files):
        for offset in range(0, file.nbytes, COPY_BYTES):
            job.write(number, offset, source.read(number, offset, min(COPY_BYTES, file.nbytes - offset)))
    for record in source.records.values():
        job.finish(record)
