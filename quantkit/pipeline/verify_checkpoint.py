"""The looks that `verify` takes at a checkpoint folder for servers, as it was published.

files       the manifest's seals, sizes and SHA-256 of files and tensors, SHA256SUMS, hashes of the source
structure   the safetensors package finds the tensors that the manifest promises
tokenizer   tokenizer, templates and processors are the source's, byte for byte
numbers     decoded weights against the source, worst tensors listed
torch       with --engine torch: what it predicts against the source, one block in memory
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.events import Sink, StageStarted, ignore
from quantkit.families.names import EXPERTS
from quantkit.formats.containers.packed import as_stored
from quantkit.formats.safetensors.reader import read_safetensors
from quantkit.jsontext import utf8
from quantkit.pipeline.record_checks import Subject, check_record
from quantkit.plan.carried import carried_names
from quantkit.quality.checks.base import WORST_TENSORS, Check, Verification
from quantkit.quality.checks.layers import with_gain
from quantkit.quality.checks.predictions import STAGE, TORCH, relay
from quantkit.quality.distributions import broken_above, divergence, log_softmax
from quantkit.quality.passages import contexts
from quantkit.quality.readers import open_with_package
from quantkit.quality.tensor_errors import compare
from quantkit.recipes.read import load_recipe, recipe_names
from quantkit.report.manifest import Manifest, read_manifest
from quantkit.source import Checkpoint, open_source
from quantkit.source.quantized import QuantizedCheckpoint
from quantkit.tensors import F32
from quantkit.tokenizer.own import source_encoder
from quantkit.untrusted import listed, shown

if TYPE_CHECKING:
    from quantkit.calibration.walk.walk import BlockView
    from quantkit.quality.checks.base import VerifyOptions

MANIFEST = "model.manifest.json"
# KL divergence of 8-bit weights with inputs in 8 bits: SmolLM2-135M shows 0.02 to 0.1, a ruined model 1 and more
ROUNDED_INPUTS = 0.3
REWRITTEN = frozenset({"generation_config.json"})
ROUNDED_FLOOR_DB = 0.0  # worse than zeros: a layer that is permuted, shifted or of another model


def verify_checkpoint(folder: Path, against: str | None, options: VerifyOptions, emit: Sink) -> Verification:
    """Look at a checkpoint folder: files, structure, tokenizer, numbers, and with engine "torch" what it predicts.

    Raises InputError for a folder that does not parse.
    """
    manifest = manifest_of(folder)
    made = open_source(str(folder), emit=emit)
    try:
        if against is None:
            checks = _stored(folder, made, manifest, None)
            checks += [Check(name, None, "needs --against SRC") for name in ("tokenizer", "numbers")]
            return Verification(tuple(checks))
        source = open_source(against, offline=options.offline, emit=emit)
        try:
            checks = _stored(folder, made, manifest, source)
            noted = manifest.facts.get("layers") if manifest else None
            compared = check_weights(made, source, manifest, options.sample_rows)
            checks.append(check_carried(made, source, manifest))
            checks.append(with_gain(compared, noted if isinstance(noted, list) else []))
            if options.engine == TORCH:
                checks.append(check_predictions(made, source, options.threads, emit))
        finally:
            source.close()
    finally:
        made.close()
    return Verification(tuple(checks))


def _stored(folder: Path, made: Checkpoint, manifest: Manifest | None, source: Checkpoint | None) -> list[Check]:
    """What can be said of the files alone, and of their manifest."""
    if manifest is None:
        return [Check("files", None, "no manifest beside the file"), check_shards(folder, made, manifest)]
    weights = tuple(folder / file.name for file in made.files() if file.weights)
    subject = Subject(weights, folder / MANIFEST, manifest, source)
    structure = check_shards(folder, made, manifest)
    wrong = _method(manifest) if structure.ok else None
    structure = replace(structure, data={**structure.data, "claims": ["plan_digest"]})
    return [check_record(subject), Check("structure", False, wrong) if wrong else structure]


def _making(shards: Sequence[Path], manifest: Manifest) -> str | None:
    """What the files say of their own making against the manifest; None where they agree."""
    recipe = manifest.recipe
    told = {"quantkit.recipe": utf8(str(recipe["name"])).decode(), "quantkit.plan": recipe.get("plan")}
    for shard in shards:
        said = read_safetensors(shard).metadata
        if "plan" not in recipe and "quantkit.plan" not in said:
            continue  # of a version that wrote neither
        for key, value in told.items():
            if said.get(key) != value:
                return f"{key} is {shown(repr(said.get(key)))} in {shard.name}, {shown(repr(value))} in the manifest"
    return None


def _method(manifest: Manifest) -> str | None:
    """A recipe of quantkit's own has the method that the manifest says: it decides what is compared."""
    words = str(manifest.recipe["name"]).split()
    if not words or "--method" in words or words[0] not in recipe_names():
        return None
    recipe = load_recipe(words[0])
    said = manifest.facts.get("method") or {}
    if said.get("transform") != recipe.method.transform:
        return f"the manifest says transform {said.get('transform')}, {words[0]} has {recipe.method.transform}"
    return None


def manifest_of(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint folder, None without one."""
    path = folder / MANIFEST
    return read_manifest(path) if os.path.lexists(path) else None


def check_shards(folder: Path, made: Checkpoint, manifest: Manifest | None) -> Check:
    """The safetensors package finds in the files what the manifest promises: names, dtypes and shapes."""
    shards = sorted(Path(f.path) for f in made.files() if f.weights)
    with open_with_package(shards) as found:
        entries = {name: (t.entry.dtype, t.entry.shape) for name, t in found.items()}
    if manifest is None:
        return Check("structure", True, "", {"tensors": len(entries)})
    wrong = _making(shards, manifest)
    if wrong:
        return Check("structure", False, wrong)
    promised = {t.name: (t.qtype, t.shape) for t in manifest.tensors}
    for name in sorted(entries.keys() | promised.keys()):
        if entries.get(name) != promised.get(name):
            what = f"tensor {name} is {entries.get(name)}, expected {promised.get(name)}"
            return Check("structure", False, what)
    return Check("structure", True, "", {"tensors": len(entries)})


def check_carried(made: Checkpoint, source: Checkpoint, manifest: Manifest | None) -> Check:
    """Tokenizer, templates and processors are the source's, byte for byte.

    Other writers than quantkit, whose folders have no manifest, save the defaults of generation anew: a note.
    """
    names = carried_names(source)
    names += [name for name in made.carried() if "/" in name and name not in names]
    pairs = {name: (made.read_file(name), source.read_file(name)) for name in names}
    wrong = [name for name, (mine, theirs) in pairs.items() if mine != theirs]
    noted = [name for name in wrong if name in REWRITTEN and manifest is None]
    missing = [name for name in wrong if pairs[name][0] is None and name not in noted]
    data = {"differing_files": wrong}
    if missing:
        hint = f"copy {listed(missing, 3)} from the source into the folder"
        return Check("tokenizer", False, f"{listed(missing, 3)} is missing, which the source has", data, hint)
    differing = [name for name in wrong if name not in noted]
    if differing:
        hint = "give the source that it was made from with --against, or copy the file from there"
        return Check("tokenizer", False, f"{differing[0]} is not what the source has", data, hint)
    detail = f"{len(names) - len(noted)} files as in the source"
    return Check("tokenizer", True, detail + "".join(f"; {name} is another" for name in noted), {"files": len(names)})


def check_weights(made: Checkpoint, source: Checkpoint, manifest: Manifest | None, sample_rows: int | None) -> Check:
    """Every weight against the source: plain ones equal, rounded ones above the floor of their bits.

    With `sample_rows` only the first rows of each are compared. Scales that a transform has moved make weights that
    differ on purpose; those checkpoints are checked by what they predict.
    """
    mine, theirs = made.tensors(), source.tensors()
    missing = sorted(name for name in theirs if name not in mine)
    if missing and not stacked(missing):
        return Check("numbers", False, f"{len(missing)} tensors of the source are missing, first {missing[0]}")
    if manifest is not None and (manifest.facts.get("method") or {}).get("transform"):
        return Check("numbers", None, "scales were moved between layers: compare predictions with --engine torch")
    errors = []
    for name, info in mine.items():
        if name not in theirs:
            continue
        rows = min(sample_rows or info.rows, info.rows)
        kind = info.stored_as or info.dtype.lower()
        before, after = source.ref(name).read(0, rows), made.ref(name).read(0, rows)
        if info.stored_as is None:
            before = as_stored(before, info.dtype)  # plain tensors have the type of config.json
        error = compare(name, kind, before, after)
        errors.append(error)
        if error.snr_db < (inf if info.stored_as is None else ROUNDED_FLOOR_DB):
            return Check("numbers", False, f"{name} has a signal to noise ratio of {error.snr_db:.1f} dB")
    worst = sorted(errors, key=lambda e: e.snr_db)[:WORST_TENSORS]
    shown = [{"tensor": e.name, "type": e.qtype, "snr_db": round(e.snr_db, 2)} for e in worst]
    data = {"compared": len(errors), "worst": shown}
    return Check("numbers", True, f"worst {worst[0].name} {worst[0].snr_db:.1f} dB", data)


def stacked(missing: Sequence[str]) -> bool:
    """Whether only stacks of experts are missing, which the checkpoint holds one by one."""
    return all(EXPERTS in name and not name.endswith(".weight") for name in missing)


def check_predictions(made: Checkpoint, source: Checkpoint, threads: int | None, emit: Sink = ignore) -> Check:
    """Next-token distributions of both, computed here with one block in memory.

    Inputs of layers are rounded as config.json asks loaders to; where they are, the check also says what that costs.
    """
    from quantkit.calibration.walk.predictions import RunOptions, next_token_logits

    found = contexts(source_encoder(source.read_file, source.config))

    def run(checkpoint: Checkpoint, prepare: Callable[[BlockView], None] = lambda block: None) -> F32:
        emit(StageStarted(STAGE, sum(info.nbytes for info in checkpoint.tensors().values())))
        options = RunOptions(threads, partial(relay, emit), prepare)
        return log_softmax(next_token_logits(checkpoint, found, options))

    rounded: set[str] = set()
    before, after = run(source), run(made, as_served(made, rounded))
    told = divergence(before, after)
    limit = broken_above(layer_bits(made))
    if rounded:
        limit = max(limit or 0.0, ROUNDED_INPUTS)
    data = {"kl_mean": told.mean, "kl_standard_error": told.standard_error, "contexts": told.contexts}
    data |= {"top_token_agreement": told.agreement, "rounded_inputs": len(rounded)}
    detail = (
        f"KL {told.mean:.4f} ± {told.standard_error:.4f}, "
        f"top token {100 * told.agreement:.0f} % over {told.contexts} contexts"
    )
    if rounded:
        detail += f", inputs of {len(rounded):,} layers rounded"
    if limit is None or told.mean <= limit:
        return Check(TORCH, True, detail, data)
    if rounded:
        alone = divergence(before, run(made))
        data["kl_of_weights_alone"] = alone.mean
        detail += f"; {alone.mean:.4f} with inputs as they are"
    return Check(TORCH, False, f"{detail}: above {limit}, the most a checkpoint of this size may show", data)


def as_served(made: Checkpoint, rounded: set[str]) -> Callable[[BlockView], None]:
    """Round the inputs of a block's layers as the loaders of `made` do; enters in `rounded` the names of the layers."""
    from quantkit.quality.inputs import Rounding, server_rounding

    def of(weight: str) -> Rounding | None:
        assert isinstance(made, QuantizedCheckpoint)
        found = server_rounding(made.modules[weight], made.quantization, made.input_scale(weight))
        if found is not None:
            rounded.add(weight)
        return found

    def prepare(block: BlockView) -> None:
        if isinstance(made, QuantizedCheckpoint):
            sources = {name: linear.source.tensor for name, linear in block.linears.items()}
            block.round_inputs(lambda name: of(sources[name]) if sources[name] in made.modules else None)

    return prepare


def layer_bits(made: Checkpoint) -> float:
    """Stored bits per weight of the layers that are quantized; of all where none is."""
    infos = made.tensors().values()
    chosen = [info for info in infos if info.stored_as is not None] or list(infos)
    return 8 * sum(info.nbytes for info in chosen) / sum(info.elements for info in chosen)
