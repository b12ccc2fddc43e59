"""The verify stage: does an artifact hold what it claims? Five independent looks, cheapest first.

files       the manifest's seals, sizes and SHA-256 of files and tensors, SHA256SUMS, hashes of the source
structure   quantkit's bounded parser: no overlap, no gap, ends at the end of the file, types as in the manifest
tokenizer   tokens, special ids and template are the source's; 2,000 texts and words of it get the source's ids
numbers     weights decoded by the gguf package against the source, worst tensors listed
llama.cpp   the file loads there, and its next-token distributions are near the source model's
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from quantkit.errors import InputError, UsageError
from quantkit.events import Sink, ignore
from quantkit.families.model import Model
from quantkit.formats.gguf.file import GGUFFile, read_gguf, shard_paths
from quantkit.pipeline.record_checks import Subject, check_making, check_record
from quantkit.pipeline.verify_checkpoint import verify_checkpoint
from quantkit.plan.describe import describe_source
from quantkit.quality.checks.base import STANDARD, Check, Verification, VerifyOptions, check_numbers, check_structure
from quantkit.quality.checks.predictions import TORCH, Reference, check_engine, require_engine
from quantkit.quality.checks.tokenizer import check_tokenizer
from quantkit.report.manifest import Manifest, find_manifest, read_manifest
from quantkit.source import Checkpoint, open_source
from quantkit.untrusted import require_path


def verify(
    artifact: Path | str,
    *,
    against: Path | str | None = None,
    options: VerifyOptions = STANDARD,
    emit: Sink = ignore,
) -> Verification:
    """Look at a published artifact. Without `against` nothing is compared with a source.

    Raises InputError for a file that does not parse, UnsupportedError for an engine that is unknown or missing.
    """
    require_engine(options.engine)
    artifact, against = Path(artifact), None if against is None else os.fspath(against)
    require_path(artifact)
    if not artifact.exists():
        raise InputError(f"{artifact} does not exist", path=str(artifact), hint="check the path")
    folder = artifact.parent if artifact.suffix == ".safetensors" else artifact
    checkpoint_like = folder.is_dir()
    if (options.engine == TORCH) != checkpoint_like and options.engine:
        what = "a checkpoint folder" if checkpoint_like else "a GGUF file"
        other = TORCH if checkpoint_like else "llama.cpp"
        raise UsageError(f"--engine {options.engine} does not load {what}", hint=f"use --engine {other}")
    if checkpoint_like:
        return verify_checkpoint(folder, against, options, emit)
    path = find_manifest(artifact)
    require_path(path)
    manifest = read_manifest(path) if os.path.lexists(path) else None
    paths = shard_paths(artifact) if artifact.exists() else (artifact,)
    if against is None:
        checks = [check_files(paths, path, manifest, None)]
        files = tuple(read_gguf(shard) for shard in paths)
        checks.append(_structure(files, manifest, None, None))
        checks += [Check(name, None, "needs --against SRC") for name in ("tokenizer", "numbers")]
        if options.engine:
            checks.append(check_engine(paths, None, options, emit))
        return Verification(tuple(checks))
    checkpoint = open_source(against, offline=options.offline, emit=emit)
    try:
        model = describe_source(checkpoint, options.pre)
        checks = [check_files(paths, path, manifest, checkpoint)]
        reference = Reference(checkpoint, model)
        return Verification((*checks, *_look(paths, reference, options, manifest, emit)))
    finally:
        checkpoint.close()


def check_files(
    paths: tuple[Path, ...], manifest_path: Path, manifest: Manifest | None, source: Checkpoint | None
) -> Check:
    """All files of an artifact against its manifest, and that against what can be known."""
    if manifest is None:
        return Check("files", None, "no manifest beside the file")
    return check_record(Subject(paths, manifest_path, manifest, source))


def _structure(
    files: Sequence[GGUFFile], manifest: Manifest | None, model: Model | None, source: Checkpoint | None
) -> Check:
    found = check_structure(files, manifest)
    if manifest is None or not found.ok:
        return found
    wrong, planned = check_making(files, manifest, model, source)
    if wrong:
        return Check("structure", False, wrong)
    return found if planned else replace(found, data={**found.data, "claims": ["plan_digest"]})


def verify_parts(
    paths: Sequence[Path], reference: Reference, options: VerifyOptions, emit: Sink = ignore
) -> Verification:
    """Look at finished files that have no manifest yet. `reference` serves all files made from one source."""
    require_engine(options.engine)
    return Verification(tuple(_look(paths, reference, options, None, emit)))


def _look(
    paths: Sequence[Path], reference: Reference, options: VerifyOptions, manifest: Manifest | None, emit: Sink
) -> Iterator[Check]:
    files = tuple(read_gguf(path) for path in paths)
    checkpoint, model = reference.checkpoint, reference.model
    yield _structure(files, manifest, model, checkpoint)
    yield check_tokenizer(files[0].metadata, checkpoint, model, reference.compared)
    yield check_numbers(files, checkpoint, model, sample_rows=options.sample_rows, threads=options.threads)
    if options.engine:
        yield check_engine(paths, reference, options, emit)
