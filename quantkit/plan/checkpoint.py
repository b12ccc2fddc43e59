"""recipe x checkpoint -> Plan: every tensor, byte and offset of a checkpoint for servers, from headers alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from quantkit import qtypes
from quantkit.errors import RecipeError, UnsupportedError, UsageError
from quantkit.families.describe import find_family
from quantkit.families.known import folds_of
from quantkit.families.linears import in_block, outline, require_served, require_walked, source_of
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.names import block_of, first_of_stack
from quantkit.families.roles import INPUTS, Role
from quantkit.families.towers import text_family
from quantkit.families.turned import turned_matrices
from quantkit.formats.containers.base import Writing, Written
from quantkit.formats.containers.compressed_tensors_kv import kv_cache_entries
from quantkit.formats.containers.packed import Entry
from quantkit.formats.containers.table import layout_of, writing
from quantkit.formats.containers.weights import Weights
from quantkit.formats.safetensors import INDEX
from quantkit.formats.safetensors.writer import Shard, index_json, split_shards
from quantkit.jsontext import dump_json, utf8
from quantkit.methods.settings import DEFAULTS
from quantkit.methods.transforms import only_into_norms
from quantkit.patterns import PatternError, require_work
from quantkit.plan.base import STANDARD, Plan, PlannedFile, PlannedTensor, PlanOptions, Unit
from quantkit.plan.carried import CONFIG, carried_files, note_left_behind
from quantkit.plan.dtypes import Dtype, computed_in, named_in, plain_entry, served_in
from quantkit.plan.groups import fitting
from quantkit.plan.notes import note_dtypes, note_low_bits, notes
from quantkit.plan.rounded_twice import ENOUGH_BITS, eight_bit_warnings
from quantkit.recipes.recipe import Recipe
from quantkit.recipes.rules import Keep, Subject
from quantkit.source import Checkpoint
from quantkit.source.restored import RestoredCheckpoint
from quantkit.source.shards import MAX_SHARDS
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed, shown
from quantkit.version import __version__

VALUES = (Role.ATTN_V, Role.ATTN_QKV)
UNCACHED = "linear_attn"  # has a state and no keys and values
HEAD = "lm_head"
PLAIN = "plain"  # the container that holds nothing rounded


def plan_checkpoint(
    checkpoint: Checkpoint, recipe: Recipe, options: PlanOptions = STANDARD, *, inputs: str = ""
) -> Plan:
    """Decide everything about the artifact from headers alone.

    `inputs` is the digest of the samples that will be run, or of the statistics. Raises RecipeError for a rule or
    --keep that matches nothing, UnsupportedError for a source without linear layers that quantkit knows, a layer whose
    shape does not fit, and weights that are quantized already.
    """
    tensors = checkpoint.tensors()
    decoded = recipe.container == PLAIN
    stored = _require_plain(checkpoint, tensors, recipe, options)
    copied = decoded and _only_copied(checkpoint, recipe)
    found = outline(tensors, checkpoint.config, served=not copied)
    said = computed_in(checkpoint.config, found, tensors)
    chosen = dict.fromkeys(found.tensors) if copied else _choose(recipe, found, checkpoint.config)
    dtype = served_in(said, (recipe.weights,) if copied else chosen.values())
    container = writing(recipe.container)
    fitted = fitting(recipe, chosen, mixed=container.mixed)
    rounded = {m.name: _rounded(recipe, m, (w, chosen[m]), dtype) for m, w in fitted.items() if w is not None}
    kept = () if copied else (m.name for m, w in chosen.items() if w is None)
    plain = tuple(sorted({*kept, *found.stay, *_head_names(found.head)}))
    drafts = list(_drafts(tensors, rounded, found, dtype, kv_cache=recipe.kv_cache))
    core = _core(recipe, tuple(rounded.values()), inputs)
    making = {"quantkit.recipe": utf8(recipe.label).decode(), "quantkit.plan": core}
    shards = _sharded(drafts, options.shard_bytes, making)
    written = replace(_written(rounded, plain, recipe), beside=found.beside, tensorrt=options.tensorrt)
    sides = _side_files(checkpoint, named_in(checkpoint.config, dtype), shards, written, container, options.card)
    files = (*(PlannedFile(s.name, s.header.data, s.header.nbytes) for s in shards), *sides)
    units = _placed(drafts, shards)
    return Plan(
        recipe=recipe.label,
        container=recipe.container,
        way="blocks" if recipe.needs_calibration else "layers",
        family=found.family,
        architecture=found.architecture,
        shape=found.shape,
        units=units,
        files=files,
        source_bytes=sum(info.nbytes for info in tensors.values()),
        digest=_digest(core, units, files),
        warnings=(
            *_restored_note(checkpoint),
            *note_left_behind(found.architecture),
            *notes(recipe, found, tuple(rounded.values()), calibrated=bool(inputs)),
            *note_low_bits(tuple(rounded.values())),
            *note_dtypes(said, dtype, tensors, units, plain=decoded),
            *eight_bit_warnings(i for i in stored if (i.stored_bits or 0) >= ENOUGH_BITS and not decoded),
        ),
        core=core,
        method=recipe.method,
        needs_inputs=recipe.needs_calibration,
        inputs=inputs,
        linears=found.tensors,
        plain=plain,
        kv_cache=recipe.kv_cache,
        served_as=found.architecture,
        model_type=str(checkpoint.config.get("model_type") or ""),
        details={"container": recipe.container},
    )


def _only_copied(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Whether a plain checkpoint is made tensor by tensor, without layers that are run: of any family."""
    if recipe.weights.type == "f32" or isinstance(checkpoint, RestoredCheckpoint):
        return True
    try:
        family = find_family(checkpoint.config).family
    except UnsupportedError:
        return text_family(checkpoint.config)[1] is not None  # the language model inside is of a family
    return family.unserved is not None or bool(turned_matrices(family, checkpoint.tensors()))  # are left to lie so


def _sharded(drafts: Sequence[Unit], limit: int, making: Mapping[str, str]) -> tuple[Shard, ...]:
    """The shards of all tensors. Raises UsageError for more of them than checkpoints are read in."""
    tensors = [tensor for draft in drafts for tensor in draft.outputs]
    shards = split_shards([tensor.entry for tensor in tensors], limit, making)
    if len(shards) > MAX_SHARDS:
        what = f"{len(shards):,} shards, of which at most {MAX_SHARDS:,} are read again"
        least = -(-sum(tensor.nbytes for tensor in tensors) // (MAX_SHARDS << 30)) + 1  # they are not filled evenly
        raise UsageError(what, key="max_shard_size", hint=f"larger ones: --max-shard-size {least}GiB")
    return shards


def _require_plain(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], recipe: Recipe, options: PlanOptions
) -> list[TensorInfo]:
    """The weights that the source stores quantized.

    Raises UnsupportedError for fewer than 8 bits, unless they are only decoded or may be rounded once more; before that
    for a family whose layers are not rounded at all, or not with text.
    """
    decoded = recipe.container == PLAIN
    if checkpoint.kind == "gguf":
        what = "a GGUF file is read backwards for checkpoints alone, not beside recipes for GGUF files"
        raise UnsupportedError(what, hint="use a command for each; or start from the checkpoint as it is on the Hub")
    if not decoded:
        require = require_walked if recipe.needs_calibration else require_served
        require(find_family(checkpoint.config).family, tensors)
    stored = [info for info in tensors.values() if info.stored_as is not None]
    twice = sorted(info.name for info in stored if (info.stored_bits or 0) < ENOUGH_BITS)
    if twice and not decoded and not options.allow_requantize:
        what = f"the source is quantized already: {listed(twice, 3)}"
        hint = "start from the original checkpoint; --allow-requantize accepts the loss, --to hf-bf16 makes it plain"
        raise UnsupportedError(what, tensor=twice[0], hint=hint)
    return stored


def _restored_note(checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    """What a checkpoint that was read backwards cannot give back."""
    if not isinstance(checkpoint, RestoredCheckpoint):
        return ()
    kinds = sorted({info.stored_as for info in checkpoint.tensors().values() if info.stored_as})
    lost = f"; {listed(kinds, 3)} is decoded, what rounding lost is gone" if kinds else ""
    what = "config.json and the tokenizer are rebuilt from the GGUF file, other files of the original are not there"
    return (("restored", what + lost),)


def _require_folds(family: str, config: Mapping[str, Any], transform: str) -> None:
    """Raise UnsupportedError where a transform would find no scales that it can move."""
    folds = folds_of(family, config)
    if not folds:
        what = f'{transform} moves scales from layer to layer, and in family "{family}" there is no place for them'
        raise UnsupportedError(what, key="method.transform", hint="use a recipe without a transform, such as w4a16")
    if only_into_norms(transform) and not any(fold.norm for fold in folds):
        what = f'{transform} moves scales into norms, and in family "{family}" no layer reads what a norm gives'
        raise UnsupportedError(what, key="method.transform", hint='use the transform "awq", or none')


def _choose(recipe: Recipe, found: Model, config: Mapping[str, Any]) -> dict[ModelTensor, Weights | None]:
    """The weights of every linear layer, None where it stays as it is.

    Raises RecipeError for a rule without effect, UnsupportedError for a transform without.
    """
    if recipe.method.transform:
        _require_folds(found.family, config, recipe.method.transform)
    chosen: dict[ModelTensor, Weights | None] = dict.fromkeys(found.tensors, recipe.weights)
    try:
        require_work((name for rule in recipe.rules for name in rule.names), len(found.tensors))
    except PatternError as error:
        raise RecipeError(f"{recipe.name}: {error}", hint="choose by roles and layers, too") from error
    for rule in recipe.rules:
        admitted = [m for m in found.tensors if rule.admits(_subject(m, found.shape.blocks))]
        if not admitted and not rule.optional:
            hint = "remove the rule, or set strict = false in the recipe"
            raise RecipeError(f"{rule.where} matches no layer of this model", hint=hint, key="rule")
        chosen |= dict.fromkeys(admitted, rule.weights)
    used: set[Keep] = set()
    for module in found.tensors:
        kept = recipe.kept(module.name)
        used.update(kept)
        if kept:
            chosen[module] = None
    for keep in recipe.keep:
        if keep not in used and not (found.head and keep.matches(found.head)):
            hint = "the pattern is searched in names such as model.layers.0.mlp.down_proj"
            raise RecipeError(f'--keep "{shown(str(keep))}" matches no layer of this model', hint=hint)
    if not any(chosen.values()):
        raise RecipeError(f"{recipe.name}: nothing is left to be rounded", hint="remove a rule or a --keep")
    return chosen


def _subject(module: ModelTensor, layers: int) -> Subject:
    """A layer as rules see it: its place is its block."""
    return Subject(module.name, module.role, module.layer, layers)


def _rounded(recipe: Recipe, module: ModelTensor, weights: tuple[Weights, Weights | None], dtype: Dtype) -> Unit:
    """A layer with the weights that fit, and those that the recipe wanted; its tensors have no place yet."""
    fitted, wanted = weights
    layout = layout_of(recipe.container, fitted, dtype)
    entries = layout.entries(module.name, module.rows, module.cols)
    other = None if wanted is None or wanted == fitted else layout_of(recipe.container, wanted, dtype).traits.word
    outputs = tuple(map(_draft, entries))
    return Unit(module, layout.traits.word, outputs, outputs[0].nbytes, layout, wanted=other)


def _draft(entry: Entry) -> PlannedTensor:
    return PlannedTensor(entry.name, entry.dtype, entry.shape, entry.nbytes)


def _beside(entry: Entry, role: Role, layer: int | None, source: TensorInfo | None = None) -> Unit:
    """A tensor that is not rounded: a copy of the `source`, or one that inputs decide."""
    parts = () if source is None else (Rows(source.name, 0, source.rows),)
    tensor = ModelTensor(entry.name, role, entry.shape, parts, layer)
    return Unit(tensor, entry.dtype.lower(), (_draft(entry),), entry.nbytes, copy=source is not None)


def _drafts(
    tensors: Mapping[str, TensorInfo],
    rounded: Mapping[str, Unit],
    found: Model,
    dtype: Dtype,
    *,
    kv_cache: bool,
) -> Iterator[Unit]:
    """The units of the artifact in the order of the source, not yet placed.

    A weight's place is taken by what its module becomes; with `kv_cache` the scales of keys and values follow the
    projections they belong to. What is not rounded is stored as `dtype`.
    """
    if kv_cache and found.shape.decoding:
        what = f"scales of cached keys and values: no server takes them for {found.architecture}"
        raise UnsupportedError(what, hint="--to fp8", key="kv_cache")
    by_source: dict[str, list[ModelTensor]] = {}
    for module in found.tensors:
        by_source.setdefault(source_of(module).tensor, []).append(module)
    for name, info in tensors.items():
        members = by_source.get(name, [])
        units = [rounded[m.name] for m in members if m.name in rounded]
        if units and len(units) < len(members):
            what = f'"{shown(name)}" holds several layers, and only some of them are rounded'
            raise UnsupportedError(what, tensor=name, hint="round or keep all experts of a layer")
        inside, _ = block_of(name)
        layer = inside if inside is None else inside + first_of_stack(name, found.before)
        layer = members[0].layer if members else layer
        yield from units or [_beside(plain_entry(info, dtype), Role.OTHER, layer, info)]
        attention = members[0].name.rpartition(".")[0] if members else ""
        if kv_cache and members and members[0].role in VALUES and not attention.endswith(UNCACHED):
            for entry in kv_cache_entries(attention, dtype):
                yield _beside(entry, Role.OTHER, layer)


def _placed(drafts: Sequence[Unit], shards: Sequence[Shard]) -> tuple[Unit, ...]:
    places = {
        entry.name: (number, offset)
        for number, shard in enumerate(shards)
        for entry, offset in zip(shard.entries, shard.header.offsets, strict=True)
    }

    def placed(tensor: PlannedTensor) -> PlannedTensor:
        file, offset = places[tensor.name]
        return replace(tensor, file=file, offset=offset)

    return tuple(replace(draft, outputs=tuple(map(placed, draft.outputs))) for draft in drafts)


def _written(rounded: Mapping[str, Unit], plain: tuple[str, ...], recipe: Recipe) -> Written:
    return Written(
        layouts={name: unit.layout for name, unit in rounded.items() if unit.layout is not None},
        plain=plain,
        block=_in_block(rounded),
        writer=f"quantkit:{__version__}",
        kv_cache=recipe.kv_cache,
        damping=recipe.method.damping or DEFAULTS.damping,
    )


def _in_block(rounded: Mapping[str, Unit]) -> tuple[tuple[str, ...], ...]:
    """Names of rounded layers relative to their block, in groups that read the same input, as a forward pass goes;
    those of other roles, as of mixers, come first and each by itself."""
    role_of = {in_block(unit.name): unit.tensor.role for unit in rounded.values()}
    groups = (tuple(name for role in site for name in role_of if role_of[name] is role) for site in INPUTS)
    sites = tuple(group for group in groups if group)
    known = {name for group in sites for name in group}
    return (*((name,) for name in role_of if name not in known), *sites)


def _side_files(
    checkpoint: Checkpoint,
    said: Mapping[str, Any],
    shards: Sequence[Shard],
    written: Written,
    container: Writing,
    card: bool,
) -> Iterator[PlannedFile]:
    """Everything besides weights: the index, what the source carries, and configurations, config.json as `said`."""
    if len(shards) > 1:
        yield _file(INDEX, index_json(shards))
    for name, data in carried_files(checkpoint, card=card):
        yield _file(name, data)
    for name, body in container.sides(written).items():
        yield _file(name, _json(body))
    sections = container.config(written)
    config = {key: value for key, value in said.items() if key != "quantization_config" and key not in sections}
    yield _file(CONFIG, _json({**config, **sections}))


def _file(name: str, data: bytes) -> PlannedFile:
    return PlannedFile(name, data, len(data))


def _json(body: Mapping[str, Any]) -> bytes:
    return (dump_json(body, indent=2, carried=True) + "\n").encode()


def _head_names(head: str | None) -> tuple[str, ...]:
    """What loaders call the output head: its name in the checkpoint, and the one that transformers has for all."""
    return (HEAD,) if head in (None, HEAD) else (head, HEAD)


def _core(recipe: Recipe, rounded: Sequence[Unit], inputs: str) -> str:
    """SHA-256 of a canonical text of everything that decides the tensors."""
    body = {
        "numerics": qtypes.NUMERICS,
        "container": recipe.container,
        "modules": [(u.name, u.source.tensor, u.source.start, repr(u.layout)) for u in rounded],
        "method": asdict(recipe.method),
        "calibration": inputs,
        "kv_cache": recipe.kv_cache,
        **({} if rounded else {"type": recipe.weights.type}),
    }
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _digest(core: str, units: Sequence[Unit], files: Sequence[PlannedFile]) -> str:
    """SHA-256 of a canonical text of everything that decides the output bytes."""
    body = {
        "core": core,
        "tensors": [(t.name, t.file, t.offset, t.nbytes) for unit in units for t in unit.outputs],
        "files": [(f.name, f.nbytes, hashlib.sha256(f.header).hexdigest()) for f in files],
    }
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()
