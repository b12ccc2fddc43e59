"""recipe x checkpoint -> ServerPlan: every tensor, byte and offset of a checkpoint for servers, from headers alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from quantkit import qtypes
from quantkit.errors import RecipeError, UnsupportedError
from quantkit.families.known import folds_of
from quantkit.families.linears import LinearModule, Outline, outline
from quantkit.families.names import block_of
from quantkit.families.roles import FUSED, INPUTS, Role
from quantkit.formats.containers.base import Writing, Written
from quantkit.formats.containers.compressed_tensors_kv import kv_cache_entries
from quantkit.formats.containers.table import layout_of, writing
from quantkit.formats.containers.weights import Weights
from quantkit.formats.safetensors.writer import INDEX, Shard, index_json, split_shards
from quantkit.jsontext import dump_json, utf8
from quantkit.methods.settings import DEFAULTS
from quantkit.methods.transforms import only_into_norms
from quantkit.patterns import PatternError, require_work
from quantkit.plan.base import PlannedFile, PlannedModule, ServerTensor
from quantkit.plan.carried import CONFIG, carried_files
from quantkit.plan.dtypes import Dtype, computed_in, named_in, plain_entry, served_in
from quantkit.plan.gguf import ENOUGH_BITS, Plan, eight_bit_warnings
from quantkit.plan.groups import fitting
from quantkit.plan.notes import note_dtypes, note_low_bits, notes
from quantkit.recipes.servers import MethodChoice, ServerRecipe, kept_by
from quantkit.source import Checkpoint
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed, shown
from quantkit.version import __version__

PLAIN = "plain"  # the container that holds nothing rounded
DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class ServerPlan:
    """What will happen, to the byte. `files` are the shards, then everything else, config.json last.

    `calibration` stands for the text that is run, "" without any, also where `needs_calibration`. `plain` are linear
    layers that stay as they are, the head among them.
    `digest` is the SHA-256 over everything that decides the output bytes, but for the source's weights. `core` is that
    over what decides the tensors alone, which the files themselves can name.
    """

    recipe: str
    container: str
    outline: Outline
    modules: tuple[PlannedModule, ...]
    tensors: tuple[ServerTensor, ...]
    files: tuple[PlannedFile, ...]
    method: MethodChoice
    plain: tuple[str, ...]
    kv_cache: bool
    source_bytes: int
    digest: str
    core: str
    calibration: str = ""
    needs_calibration: bool = False
    warnings: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        what = f"{self.container}, {len(self.modules)} layers, {self.nbytes:,} bytes, digest {self.digest[:12]}"
        return f"ServerPlan({self.recipe!r}, {what})"

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.files)

    @cached_property
    def by_name(self) -> Mapping[str, ServerTensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def calibrated(self) -> bool:
        return bool(self.calibration)


AnyPlan = Plan | ServerPlan


@dataclass(frozen=True)
class ServerOptions:
    """What a run wants besides the recipe: the size of shards, whether TensorRT-LLM reads it, too, and whether weights
    that the source stores quantized may be rounded once more.
    """

    shard_bytes: int = DEFAULT_SHARD_BYTES
    tensorrt: bool = False
    allow_requantize: bool = False


def plan_server(
    checkpoint: Checkpoint,
    recipe: ServerRecipe,
    options: ServerOptions = ServerOptions(),
    *,
    calibration: str = "",
) -> ServerPlan:
    """Decide everything about the artifact from headers alone.

    `calibration` is the digest of the samples that will be run. Raises RecipeError for a rule or --keep that matches
    nothing, UnsupportedError for a source without linear layers that quantkit knows, a layer whose shape does not fit,
    and weights that are quantized already.
    """
    tensors = checkpoint.tensors()
    decoded = recipe.container == PLAIN
    stored = _require_plain(checkpoint, tensors, decoded or options.allow_requantize)
    found = outline(tensors, checkpoint.config)
    said = computed_in(checkpoint.config, found, tensors)
    chosen = _choose(recipe, found)
    dtype = served_in(said, chosen.values())
    container = writing(recipe.container)
    fitted = fitting(recipe, chosen, mixed=container.mixed)
    modules = {m.name: _planned(recipe, m, (w, chosen[m]), dtype) for m, w in fitted.items() if w is not None}
    if not modules:
        raise RecipeError(f"{recipe.name}: nothing is left to be rounded", hint="remove a rule or a --keep")
    kept = [m.name for m, w in chosen.items() if w is None]
    plain = tuple(sorted([*kept, *found.routers, found.head or "lm_head"]))
    drafts = list(_drafts(tensors, modules, found, dtype, kv_cache=recipe.kv_cache))
    core = _core(recipe, tuple(modules.values()), calibration)
    making = {"quantkit.recipe": utf8(recipe.label).decode(), "quantkit.plan": core}
    shards = split_shards([draft.entry for draft in drafts], options.shard_bytes, making)
    damping = recipe.method.damping or DEFAULTS.damping
    written = replace(_written(modules, plain, recipe), beside=found.beside, damping=damping, tensorrt=options.tensorrt)
    files = (*(PlannedFile(s.name, s.header.data, s.header.nbytes) for s in shards),
             *_side_files(checkpoint, named_in(checkpoint.config, dtype), shards, written, container))  # fmt: skip
    placed = _placed(drafts, shards)
    plan = ServerPlan(
        recipe=recipe.label,
        container=recipe.container,
        outline=found,
        modules=tuple(modules.values()),
        tensors=placed,
        files=files,
        method=recipe.method,
        plain=plain,
        kv_cache=recipe.kv_cache,
        source_bytes=sum(info.nbytes for info in tensors.values()),
        digest="",
        core=core,
        calibration=calibration,
        needs_calibration=recipe.needs_calibration,
        warnings=(
            *notes(recipe, found, tuple(modules.values()), calibrated=bool(calibration)),
            *note_low_bits(tuple(modules.values())),
            *note_dtypes(said, dtype, tensors, placed, plain=decoded),
            *eight_bit_warnings(i for i in stored if (i.stored_bits or 0) >= ENOUGH_BITS and not decoded),
        ),
    )
    return replace(plan, digest=_digest(plan))


def _require_plain(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], allowed: bool) -> list[TensorInfo]:
    """The weights that the source stores quantized. Raises UnsupportedError for fewer than 8 bits, if not `allowed`."""
    if checkpoint.kind == "gguf":
        what = "a GGUF file has no config.json and no tokenizer files, which servers need"
        raise UnsupportedError(what, hint="start from the checkpoint as it is on the Hub")
    stored = [info for info in tensors.values() if info.stored_as is not None]
    twice = sorted(info.name for info in stored if (info.stored_bits or 0) < ENOUGH_BITS)
    if twice and not allowed:
        what = f"the source is quantized already: {listed(twice, 3)}"
        hint = "start from the original checkpoint; --allow-requantize accepts the loss, --to hf-bf16 makes it plain"
        raise UnsupportedError(what, tensor=twice[0], hint=hint)
    return stored


def _require_folds(family: str, transform: str) -> None:
    """Raise UnsupportedError where a transform would find no scales that it can move."""
    folds = folds_of(family)
    if only_into_norms(transform) and not any(fold.norm for fold in folds):
        what = f'{transform} moves scales into norms, and in family "{family}" no layer reads what a norm gives'
        raise UnsupportedError(what, key="method.transform", hint='use the transform "awq", or none')


def _choose(recipe: ServerRecipe, found: Outline) -> dict[LinearModule, Weights | None]:
    """The weights of every linear layer, None where it stays as it is.

    Raises RecipeError for a rule without effect, UnsupportedError for a transform without.
    """
    if recipe.method.transform:
        _require_folds(found.family, recipe.method.transform)
    chosen: dict[LinearModule, Weights | None] = dict.fromkeys(found.linears, recipe.weights)
    try:
        require_work((name for rule in recipe.rules for name in rule.names), len(found.linears))
    except PatternError as error:
        raise RecipeError(f"{recipe.name}: {error}", hint="choose by roles and layers, too") from error
    for rule in recipe.rules:
        admitted = [m for m in found.linears if rule.admits(m, found.shape.layers)]
        if not admitted and not rule.optional:
            hint = "remove the rule, or set strict = false in the recipe"
            raise RecipeError(f"{rule.where} matches no layer of this model", hint=hint, key="rule")
        chosen |= dict.fromkeys(admitted, rule.weights)
    used = set()
    for module in found.linears:
        keep = kept_by(recipe, module)
        if keep is not None:
            used.add(keep)
            chosen[module] = None
    for keep in recipe.keep:
        if keep not in used and not (found.head and keep.matches(found.head)):
            hint = "the pattern is searched in names such as model.layers.0.mlp.down_proj"
            raise RecipeError(f'--keep "{shown(str(keep))}" matches no layer of this model', hint=hint)
    return chosen


def _planned(
    recipe: ServerRecipe, module: LinearModule, weights: tuple[Weights, Weights | None], dtype: Dtype
) -> PlannedModule:
    """A layer with the weights that fit, and those that the recipe wanted."""
    fitted, wanted = weights
    layout = layout_of(recipe.container, fitted, dtype)
    entries = layout.entries(module.name, module.rows, module.cols)
    other = None if wanted is None or wanted == fitted else layout_of(recipe.container, wanted, dtype)
    return PlannedModule(module, layout, entries, other)


def _drafts(
    tensors: Mapping[str, TensorInfo],
    modules: Mapping[str, PlannedModule],
    found: Outline,
    dtype: Dtype,
    *,
    kv_cache: bool,
) -> Iterator[ServerTensor]:
    """The tensors of the artifact in the order of the source, not yet placed.

    A weight's place is taken by what its module becomes; with `kv_cache` the scales of keys and values follow the
    projections they belong to. What is not rounded is stored as `dtype`.
    """
    by_source: dict[str, list[LinearModule]] = {}
    for module in found.linears:
        by_source.setdefault(module.source.tensor, []).append(module)
    for name, info in tensors.items():
        members = by_source.get(name, [])
        rounded = [modules[m.name] for m in members if m.name in modules]
        if rounded and len(rounded) < len(members):
            what = f'"{shown(name)}" holds several layers, and only some of them are rounded'
            raise UnsupportedError(what, tensor=name, hint="round or keep all experts of a layer")
        block = members[0].layer if members else block_of(name)[0]
        if not rounded:
            yield ServerTensor(plain_entry(info, dtype), 0, 0, block)
        for planned in rounded:
            for entry in planned.entries:
                yield ServerTensor(entry, 0, 0, block, planned.name, copied=False)
        if kv_cache and members and members[0].role in (Role.ATTN_V, Role.ATTN_QKV):
            attention = members[0].name.rpartition(".")[0]
            for entry in kv_cache_entries(attention, dtype):
                yield ServerTensor(entry, 0, 0, block, copied=False)


def _placed(drafts: Sequence[ServerTensor], shards: Sequence[Shard]) -> tuple[ServerTensor, ...]:
    places = {
        entry.name: (number, offset)
        for number, shard in enumerate(shards)
        for entry, offset in zip(shard.entries, shard.header.offsets, strict=True)
    }
    return tuple(replace(d, file=places[d.name][0], offset=places[d.name][1]) for d in drafts)


def _written(modules: Mapping[str, PlannedModule], plain: tuple[str, ...], recipe: ServerRecipe) -> Written:
    return Written(
        layouts={name: planned.layout for name, planned in modules.items()},
        plain=plain,
        block=_in_block(modules),
        writer=f"quantkit:{__version__}",
        kv_cache=recipe.kv_cache,
    )


def _in_block(modules: Mapping[str, PlannedModule]) -> tuple[tuple[str, ...], ...]:
    """Names of rounded layers relative to their block, in groups that read the same input, as a forward pass goes."""
    role_of = {planned.module.in_block: planned.module.role for planned in modules.values()}
    groups = (tuple(name for role in site for name in role_of if role_of[name] is role) for site in INPUTS)
    return tuple(group for group in groups if group)


def _side_files(
    checkpoint: Checkpoint,
    said: Mapping[str, Any],
    shards: Sequence[Shard],
    written: Written,
    container: Writing,
) -> Iterator[PlannedFile]:
    """Everything besides weights: the index, what the source carries, and configurations, config.json as `said`."""
    if len(shards) > 1:
        yield _file(INDEX, index_json(shards))
    for name, data in carried_files(checkpoint):
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


def _core(recipe: ServerRecipe, modules: Sequence[PlannedModule], calibration: str) -> str:
    """SHA-256 of a canonical text of everything that decides the tensors."""
    body = {
        "numerics": qtypes.NUMERICS,
        "container": recipe.container,
        "modules": [(p.name, p.module.source.tensor, p.module.source.start, repr(p.layout)) for p in modules],
        "method": asdict(recipe.method),
        "calibration": calibration,
        "kv_cache": recipe.kv_cache,
    }
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _digest(plan: ServerPlan) -> str:
    """SHA-256 of a canonical text of everything that decides the output bytes."""
    body = {
        "core": plan.core,
        "tensors": [(t.name, t.file, t.offset, t.entry.nbytes) for t in plan.tensors],
        "files": [(f.name, f.nbytes, hashlib.sha256(f.header).hexdigest()) for f in plan.files],
    }
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def blocks(plan: ServerPlan) -> dict[int | None, tuple[ServerTensor, ...]]:
    """The tensors of every block, None for what lies outside, in the order of the blocks."""

    def key(tensor: ServerTensor) -> int:
        return -1 if tensor.block is None else tensor.block

    ordered = sorted(plan.tensors, key=key)
    return {None if number < 0 else number: tuple(group) for number, group in groupby(ordered, key)}


def siblings(modules: Iterable[PlannedModule]) -> list[tuple[PlannedModule, ...]]:
    """Layers that share a scale, together: those that engines fuse, where the scheme has a scale for a whole tensor.

    Others stand alone. The order is that of each group's first layer.
    """
    groups: dict[tuple[object, ...], list[PlannedModule]] = {}
    for planned in modules:
        module = planned.module
        fused = planned.layout.traits.sharing and module.role in FUSED
        shared = (module.layer, module.expert, FUSED[module.role]) if fused else (planned.name,)
        groups.setdefault(shared, []).append(planned)
    return [tuple(group) for group in groups.values()]
