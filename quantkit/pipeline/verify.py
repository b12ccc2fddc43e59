"""The verify stage: does an artifact hold what it claims? Five independent looks, cheapest first.

files       sizes and SHA-256 against the manifest
structure   quantkit's bounded parser: no overlap, no gap, ends at the end of the file, types as in the manifest
tokenizer   the vocabulary in the file encodes 2,000 probe strings as the source does
numbers     weights decoded by the gguf package against the source, worst tensors listed
llama.cpp   the file loads there, and its next-token distributions are near the source model's
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import UsageError
from quantkit.events import Sink, ignore
from quantkit.families.model import Model
from quantkit.formats.gguf import read_gguf, shard_paths
from quantkit.pipeline.checks import (
    Check,
    Verification,
    check_files,
    check_numbers,
    check_structure,
)
from quantkit.pipeline.engine import TORCH, check_engine, require_engine
from quantkit.pipeline.prepare import describe_source
from quantkit.pipeline.token_checks import check_tokenizer
from quantkit.pipeline.verify_checkpoint import verify_checkpoint
from quantkit.report.manifest import Manifest, manifest_path, read_manifest
from quantkit.source import Checkpoint, open_source
from quantkit.untrusted import require_path


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


def verify(
    artifact: Path | str,
    *,
    against: Path | str | None = None,
    options: VerifyOptions = VerifyOptions(),
    emit: Sink = ignore,
) -> Verification:
    """Look at a published artifact. Without `against` nothing is compared with a source.

    Raises InputError for a file that does not parse, UnsupportedError for an engine that is unknown or missing.
    """
    require_engine(options.engine)
    artifact, against = Path(artifact), None if against is None else os.fspath(against)
    require_path(artifact)
    folder = artifact.parent if artifact.suffix == ".safetensors" else artifact
    checkpoint_like = folder.is_dir()
    if (options.engine == TORCH) != checkpoint_like and options.engine:
        raise UsageError(f"--engine {options.engine} does not load this", hint="torch loads folders, llama.cpp GGUF")
    if checkpoint_like:
        return verify_checkpoint(folder, against, options, emit)
    path = manifest_path(artifact)
    require_path(path)
    manifest = read_manifest(path) if path.is_file() else None
    checks = [check_files(artifact, manifest)]
    if against is None:
        files = tuple(read_gguf(shard) for shard in shard_paths(artifact))
        checks.append(check_structure(files, manifest))
        checks += [Check(name, None, "needs --against SRC") for name in ("tokenizer", "numbers")]
        if options.engine:
            checks.append(check_engine(artifact, None, options))
        return Verification(tuple(checks))
    checkpoint = open_source(against, offline=options.offline, emit=emit)
    try:
        model = describe_source(checkpoint, options.pre)
        return Verification((*checks, *_look(shard_paths(artifact), checkpoint, model, options, manifest)))
    finally:
        checkpoint.close()


def verify_parts(paths: Sequence[Path], checkpoint: Checkpoint, model: Model, options: VerifyOptions) -> Verification:
    """Look at finished files that have no manifest yet."""
    require_engine(options.engine)
    return Verification(tuple(_look(paths, checkpoint, model, options, None)))


def _look(
    paths: Sequence[Path], checkpoint: Checkpoint, model: Model, options: VerifyOptions, manifest: Manifest | None
) -> Iterator[Check]:
    files = tuple(read_gguf(path) for path in paths)
    yield check_structure(files, manifest)
    yield check_tokenizer(files[0].metadata, checkpoint, model)
    yield check_numbers(files, checkpoint, model, sample_rows=options.sample_rows, threads=options.threads)
    if options.engine:
        yield check_engine(paths[0], checkpoint, options)
