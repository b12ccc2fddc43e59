"""The verify stage: does an artifact hold what it claims? Independent looks, cheapest first, for every container.

files       the manifest's seals, sizes and SHA-256 of files and tensors, SHA256SUMS, hashes of the source
structure   GGUF: quantkit's bounded parser, no overlap, no gap, ends at the end of the file; checkpoints: the
            safetensors package; the tensors are those that the manifest promises, and what it says of their making
tokenizer   GGUF: tokens, special ids and template are the source's, 2,000 texts and words of it get the source's ids;
            checkpoints: tokenizer, templates and processors are the source's, byte for byte
numbers     weights against the source, worst tensors listed: decoded by the gguf package, or read by the safetensors
            package and decoded as config.json says, by nothing that packed them
engine      is the file right: llama.cpp, or transformers, beside our own run of the artifact's weights; how far is it
            from the source: told, not judged (evaluation/engine_check.py)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.errors import InputError, NonFiniteError, UnsupportedError, UsageError
from quantkit.events import Sink, ignore
from quantkit.families.model import Model
from quantkit.families.model_card import CARD_FILE
from quantkit.formats.containers.declared import SIDE_CONFIGS
from quantkit.formats.gguf.file import read_gguf, shard_paths
from quantkit.plan.base import Plan
from quantkit.plan.carried import CONFIG, REPLACED, carried_names
from quantkit.plan.describe import describe_source
from quantkit.plan.encoder import describe_encoder, is_encoder, type_of_file
from quantkit.quality.against import REWRITTEN, Against, of_gguf, of_source
from quantkit.quality.check import check
from quantkit.quality.checks.base import STANDARD, Check, Verification, VerifyOptions
from quantkit.quality.engines import LLAMA_CPP
from quantkit.quality.made import Made, Place
from quantkit.quality.made_gguf import open_gguf
from quantkit.quality.reference import Reference
from quantkit.report.manifest import CHECKPOINT_MANIFEST, Manifest, find_manifest, read_manifest
from quantkit.source import Checkpoint, open_source, turned_back
from quantkit.source.folder import MAX_CONFIG_BYTES
from quantkit.untrusted import read_bounded, require_path

if TYPE_CHECKING:
    from quantkit.evaluation.source_run import SourceRun

SHARD = ".safetensors"


def require_checked(engine: str | None, *, compared: bool = True) -> None:
    """Raise what `require_engine` raises, for an engine that checks may ask."""
    if engine is not None:
        from quantkit.evaluation.engine_check import CHECKED  # for engines alone, here and below
        from quantkit.evaluation.opening import require_engine

        require_engine(engine, CHECKED, compared=compared)


def verify_artifact(
    artifact: Path | str,
    *,
    against: Path | str | None = None,
    adapters: Sequence[str] = (),
    options: VerifyOptions = STANDARD,
    emit: Sink = ignore,
) -> Verification:
    """Look at a published artifact by itself: see `verify_folder.verify`. Without `against` nothing is compared with a
    source: of the file of an adapter that is the adapter; `adapters` are those that were merged into it.

    Raises InputError for a file that does not parse, UsageError for an engine that is unknown, or that does not run
    such an artifact or not without its source, UnsupportedError for one that is missing.
    """
    require_checked(options.engine, compared=against is not None)
    artifact, against = Path(artifact), None if against is None else os.fspath(against)
    require_path(artifact)
    if not artifact.exists():
        raise InputError(f"{artifact} does not exist", path=str(artifact), hint="check the path")
    folder = artifact.parent if artifact.suffix == SHARD else artifact
    checkpoint_like = folder.is_dir()
    if options.engine and (options.engine != LLAMA_CPP) != checkpoint_like:
        what = "a checkpoint folder" if checkpoint_like else "a GGUF file"
        from quantkit.evaluation.opening import TORCH

        other = TORCH if checkpoint_like else LLAMA_CPP
        raise UsageError(f"--engine {options.engine} does not load {what}", hint=f"use --engine {other}")
    if options.engine and checkpoint_like and against is None:
        what = f"--engine {options.engine} runs a checkpoint beside its source"
        raise UsageError(what, hint="give the source with --against, or leave --engine out", key="engine")
    look = _checkpoint if checkpoint_like else _gguf
    if against is None:
        return look(folder, None, options, emit)
    from quantkit.plan.adapter import is_adapter  # for published files alone

    if not checkpoint_like and is_adapter(_entries(artifact)):
        if adapters or options.engine:
            what = f"{artifact.name} is an adapter: nothing is merged into it, and no engine runs it without its model"
            raise UsageError(what, hint="leave --adapter and --engine out", key="adapter" if adapters else "engine")
        from quantkit.source.adapter_model import open_adapter_model

        opened: Checkpoint = open_adapter_model(against, options.base, offline=options.offline, emit=emit)
    elif options.base is not None:
        from quantkit.source.draft import open_draft

        opened = open_draft(against, options.base, offline=options.offline, emit=emit, adapters=adapters)
    else:
        opened = open_source(against, offline=options.offline, emit=emit, adapters=adapters)
    with closing(opened):
        return look(folder, turned_back(opened, emit) if checkpoint_like else opened, options, emit)


def verify_parts(
    paths: Sequence[Path],
    plan: Plan,
    against: Against,
    options: VerifyOptions,
    run: SourceRun | None = None,
    emit: Sink = ignore,
) -> Verification:
    """Look at the finished files of a plan, in its order, that have no manifest yet. Names tell the container. `run`
    is the source for engines, which runs once for all artifacts."""
    require_checked(options.engine, compared=run is not None)
    promised = [Place(t.name, t.dtype, t.shape, t.file, t.offset, t.nbytes) for t in plan.tensors]
    there = {file.name: path for file, path in zip(plan.files, paths, strict=True)}
    if paths[0].suffix != SHARD:
        with open_gguf(paths) as made:
            seen = check(made, against, promised, options)
            return Verification((*seen.checks, *_in_engine(made, run, options, emit)))
    from quantkit.quality.made_checkpoint import open_checkpoint  # for checkpoints alone, here and below

    shards = [path for name, path in there.items() if name.endswith(SHARD)]
    own = {*REPLACED, CARD_FILE}  # the card of an artifact is its own affair
    names = [name for name in there if name not in own and not name.endswith(SHARD)]

    def read(name: str) -> bytes | None:
        return there[name].read_bytes() if name in there else None

    with open_checkpoint(shards, names, read) as checkpoint:
        return check(checkpoint, against, promised, options)


def _in_engine(made: Made, run: SourceRun | None, options: VerifyOptions, emit: Sink) -> tuple[Check, ...]:
    """What the engine that was asked for makes of an artifact; values that are no numbers are a look that failed,
    beside those that tell which weights are damaged."""
    if options.engine is None:
        return ()
    from quantkit.evaluation.engine_check import check_llama_cpp, check_served

    try:
        if options.engine == LLAMA_CPP:
            return (check_llama_cpp(made.paths, run, options, emit),)
        if run is not None and made.served is not None:
            return (check_served(made.served, run, options, emit),)
    except NonFiniteError as error:
        return (Check(options.engine, False, error.message),)
    return ()


def _gguf(artifact: Path, source: Checkpoint | None, options: VerifyOptions, emit: Sink) -> Verification:
    from quantkit.evaluation.source_run import SourceRun  # for published files alone, here and below

    path = find_manifest(artifact)
    require_path(path)
    manifest = read_manifest(path) if os.path.lexists(path) else None
    paths = shard_paths(artifact) if artifact.exists() else (artifact,)
    reference = None if source is None else _reference(paths, source, options)
    files = _files(paths, path, manifest, source)
    with open_gguf(paths) as made:
        against = None if reference is None else _with_facts(of_gguf(reference), manifest)
        seen = check(made, against, _promised(manifest), options)
        with closing(SourceRun(source, reference.model)) if source and reference else nullcontext() as run:
            engine = _in_engine(made, run, options, emit)
        if manifest is None:
            return Verification((files, *seen.checks, *engine))
        from quantkit.pipeline.record_checks import check_making  # for manifests alone, here and below

        model = None if reference is None else reference.model
        wrong, planned = check_making(made.files, manifest, model, source)
    return Verification((files, *_judged(seen, wrong, claims=not planned), *engine))


def _entries(artifact: Path) -> dict[str, object]:
    """The entries of a GGUF file by key."""

    return {kv.key: kv.value for kv in read_gguf(artifact).metadata} if artifact.exists() else {}


def _reference(paths: Sequence[Path], source: Checkpoint, options: VerifyOptions) -> Reference:
    """The source as the file at `paths`, which is named by the first of them, was made of it."""
    from quantkit.quality.decoded import source_as_made  # for published files alone

    model = _described(paths[0], source, options.pre)
    return Reference(source_as_made(paths, source, model, options.threads), model)


def _described(artifact: Path, source: Checkpoint, pre: str | None) -> Model:
    """What of the source a GGUF file holds: the language model, or its encoder. Raises UnsupportedError for the file of
    an encoder that the source has not."""
    said = _entries(artifact)
    if not is_encoder(said):
        return describe_source(source, pre)
    found = describe_encoder(source, type_of_file(said))
    if found is None:
        what = f"{artifact.name} is the file of an encoder, and {source.name} has none that is known"
        raise UnsupportedError(what, path=str(artifact), hint="give the checkpoint that it was made from")
    return found


def _checkpoint(folder: Path, source: Checkpoint | None, options: VerifyOptions, emit: Sink) -> Verification:
    from quantkit.evaluation.source_run import SourceRun
    from quantkit.quality.made_checkpoint import open_checkpoint

    path = folder / CHECKPOINT_MANIFEST
    manifest = read_manifest(path) if os.path.lexists(path) else None
    with closing(open_source(str(folder), emit=emit)) as served:
        paths = tuple(sorted(Path(f.path) for f in served.files() if f.weights))
        names = [] if source is None else carried_names(source)
        names += [name for name in served.carried() if "/" in name and name not in names]

        def read(name: str) -> bytes | None:
            if name in (CONFIG, *SIDE_CONFIGS):  # as it is: quantkit's reader hides what it says of a quantization
                return read_bounded(folder / name, MAX_CONFIG_BYTES) if os.path.lexists(folder / name) else None
            return served.read_file(name)

        files = _files(tuple(folder / p.name for p in paths), path, manifest, source)
        with open_checkpoint(paths, names, read, served) as made:
            against = None if source is None else _with_facts(of_source(source, made.held()), manifest)
            seen = check(made, against, _promised(manifest), options)
            engine = _in_engine(made, None if source is None else SourceRun(source), options, emit)
    if manifest is None:
        return Verification((files, *seen.checks, *engine))
    from quantkit.pipeline.record_checks import wrong_making

    return Verification((files, *_judged(seen, wrong_making(paths, manifest), claims=True), *engine))


def _with_facts(against: Against, manifest: Manifest | None) -> Against:
    """With what a manifest says of how weights came about; of a checkpoint without one other writers are the makers."""

    if manifest is None:
        return replace(against, rewritten=REWRITTEN)
    layers = manifest.facts.get("layers")
    moved = bool((manifest.facts.get("method") or {}).get("transform"))
    return replace(against, moved=moved, noted=layers if isinstance(layers, list) else [])


def _files(paths: tuple[Path, ...], path: Path, manifest: Manifest | None, source: Checkpoint | None) -> Check:
    """All files of an artifact against its manifest, and that against what can be known."""
    if manifest is None:
        return Check("files", None, "no manifest beside the file")
    from quantkit.pipeline.record_checks import Subject, check_record

    return check_record(Subject(paths, path, manifest, source))


def _promised(manifest: Manifest | None) -> list[Place] | None:
    if manifest is None:
        return None
    return [Place(t.name, t.qtype, t.shape, t.file, t.offset, t.nbytes) for t in manifest.tensors]


def _judged(seen: Verification, wrong: str | None, *, claims: bool) -> list[Check]:
    """The looks, with what is wrong with how the artifact says it was made; `claims`: its plan is taken on trust."""
    structure, *others = seen.checks
    if structure.ok and wrong:
        structure = Check("structure", False, wrong)
    elif structure.ok and claims:
        structure = replace(structure, data={**structure.data, "claims": ["plan_digest"]})
    return [structure, *others]
