"""recipe x checkpoint x family -> Plan: every type, byte and offset, known before a weight is read."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quantkit import qtypes
from quantkit.errors import RecipeError, UnsupportedError
from quantkit.families.factors import graph_of
from quantkit.families.keys import POOLING_TYPE
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.parts import Zeros
from quantkit.families.roles import Role
from quantkit.filenames import file_stem
from quantkit.formats.gguf.file import TensorEntry, encode_header, shard_name, split_files, split_metadata
from quantkit.jsontext import utf8
from quantkit.metadata import KeyValue
from quantkit.plan.base import STANDARD, Plan, PlannedFile, PlannedTensor, PlanOptions, Unit
from quantkit.plan.codes import carried, codes_of, with_factors
from quantkit.plan.codes import file_type as file_type_of
from quantkit.plan.codes import keys as keys_of_codes
from quantkit.plan.feedback import identity, metadata_of, refits, with_layouts
from quantkit.plan.grids import grid_of
from quantkit.plan.grids import keys as keys_of_grids
from quantkit.plan.mixture import Choice, choose_types
from quantkit.plan.rounded_twice import UNROUNDED, require_unquantized, source_notes
from quantkit.qtypes import base
from quantkit.recipes.recipe import GGUF, Allotment, Recipe
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32, TensorInfo
from quantkit.version import __version__

if TYPE_CHECKING:
    from quantkit.formats.gguf.imatrix import Imatrix

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION: the layout of the blocks, not of the file
LOW_BITS_PER_WEIGHT = 3.0

# What the source said of its own files and their making, besides the keys that are written anew.
DROPPED_KEYS = ("split.", "quantkit.")

# Keys whose values are words for people.
NAMING_KEYS = ("general.", "quantkit.", "quantize.")


def plan_gguf(
    model: Model,
    checkpoint: Checkpoint,
    recipe: Recipe,
    options: PlanOptions = STANDARD,
    *,
    imatrix: Imatrix | None = None,
    inputs: str = "",
) -> Plan:
    """Decide everything about the artifact from headers alone.

    The recipe's method rounds block by block with what `inputs`, a digest, stands for, if it needs any; otherwise the
    types' own encoders round, with an `imatrix` or without.

    Raises RecipeError for a rule or --keep that matches nothing, forbidden fallbacks and missing importance weights;
    UnsupportedError for a quantized source, without `allow_requantize`; InputError for an imatrix of another model.
    """
    assert recipe.mixture is not None, recipe.container
    method, allotment = recipe.method if recipe.needs_calibration else None, recipe.mixture.allotment
    sources = checkpoint.tensors()
    unquantized = {t.name: unquantized_type(t, sources) for t in model.tensors}
    choices = choose_types(model, recipe, unquantized, imatrix=bool(imatrix or method))
    _require_fallbacks_allowed(choices, recipe)
    drafts = with_layouts(model, _drafts(model, choices, sources, options, preserve=recipe.mixture.preserve), recipe)
    if not options.allow_requantize:
        require_unquantized(drafts, unquantized, sources, graph_of(model))
    importance, notes = _importance(drafts, imatrix) if imatrix else ({}, ())
    _require_importance(drafts, importance, recipe)
    drafts = with_factors([replace(d, importance=importance.get(d.name)) for d in drafts], checkpoint)
    moving = refits(drafts, recipe, model.family)
    chosen = [*(imatrix.provenance() if imatrix else ()), *keys_of_codes(drafts, sources), *keys_of_grids(drafts)]
    metadata = _metadata(model, checkpoint, recipe, [*chosen, *metadata_of(method, moving)], drafts)
    stem = options.stem or f"{file_stem(checkpoint.name)}-{recipe.title}"
    units, files = _lay_out(drafts, metadata, stem, options.split_bytes)
    return Plan(
        recipe=recipe.label,
        container=GGUF,
        way="blocks" if method else "slabs",
        rest="slabs",
        widened=method is not None,
        method=method,
        needs_inputs=method is not None,
        inputs=inputs,
        evens=method is not None and recipe.mixture.columns,
        refits=moving,
        family=model.family,
        architecture=model.architecture,
        shape=model.shape,
        units=units,
        files=files,
        source_bytes=sum(u.source_bytes for u in units),
        digest=_digest(units, _headers(files), identity(units, recipe, inputs, moving)),
        warnings=(*model.warnings, *notes, *source_notes(units, sources, model), *_warnings(units, allotment)),
        metadata=metadata,
        tokenizer_sha256=model.tokenizer_sha256,
        served_as=model.gguf_architecture,
        allocation=allotment.facts if allotment else {},
        kind=model.kind,
        details={"adapter": "lora"} if recipe.mixture.adapter else _pooling(model, metadata),
    )


def _pooling(model: Model, metadata: Sequence[KeyValue]) -> Mapping[str, Any]:
    """What a manifest says of a model that pools: it gives vectors or scores and no text."""
    key = f"{model.gguf_architecture}.{POOLING_TYPE.name}"
    found = next((kv.value for kv in metadata if kv.key == key), None)
    return {} if found is None else {POOLING_TYPE.name: found}


def _headers(files: Sequence[PlannedFile]) -> list[tuple[int, str]]:
    """Each file's size and the SHA-256 of its header."""
    return [(file.nbytes, hashlib.sha256(file.header).hexdigest()) for file in files]


def unquantized_type(tensor: ModelTensor, sources: Mapping[str, TensorInfo]) -> str:
    """The type of a tensor that is left alone: what its family says, else what all its parts have, else f32.

    Zeros are of any type.
    """
    if tensor.stored is not None:
        return tensor.stored
    found = {sources[rows.tensor].dtype.lower() for part in tensor.parts for rows in part.sources}
    found |= {"f32" for part in tensor.parts if not part.sources and not isinstance(part, Zeros)}
    return found.pop() if len(found) == 1 else "f32"


def _drafts(
    model: Model,
    choices: Mapping[str, Choice],
    sources: Mapping[str, TensorInfo],
    options: PlanOptions,
    *,
    preserve: bool,
) -> list[Unit]:
    """The tensors in the order of choices; codes of the source stay what they are where their type does."""
    by_name, graph = {t.name: t for t in model.tensors}, graph_of(model)
    found = []
    for name, choice in choices.items():
        codes = codes_of(by_name[name], sources, graph)
        kept, stored = carried(choice, codes, decode=options.allow_requantize)
        draft = _draft(by_name[name], kept, sources)
        draft = replace(draft, codes=stored, copy=True) if stored else draft
        found.append(replace(draft, grid=grid_of(draft, sources)) if preserve else draft)
    return found


def _draft(tensor: ModelTensor, choice: Choice, sources: Mapping[str, TensorInfo]) -> Unit:
    """The tensor with its type and size, not yet placed in a file."""
    qtype = base.get(choice.qtype)
    nbytes = prod(tensor.shape[:-1]) * qtype.row_bytes(tensor.shape[-1])
    rows = [source for part in tensor.parts for source in part.sources]
    constants = sum(4 * part.rows * tensor.cols for part in tensor.parts if not part.sources)
    plain = len(tensor.parts) == 1 and tensor.parts[0].source and not tensor.add and tensor.row_order is None
    return Unit(
        tensor=tensor,
        word=choice.qtype,
        outputs=(PlannedTensor(tensor.name, choice.qtype, tensor.shape, nbytes),),
        code_bytes=nbytes if qtype.code_bytes is None else nbytes // qtype.nbytes * qtype.code_bytes,
        reason=choice.reason,
        wanted=choice.fallback_from,
        free=choice.free,
        copy=bool(plain)
        and all(p.start == 0 and sources[p.tensor].dtype == choice.qtype for p in rows)
        and not constants,
        source_bytes=constants + sum(_stored_bytes(part, sources[part.tensor]) for part in rows),
    )


def _stored_bytes(part: Rows, info: TensorInfo) -> int:
    return info.nbytes * (part.stop - part.start) // max(info.rows, 1)


def _require_fallbacks_allowed(choices: Mapping[str, Choice], recipe: Recipe) -> None:
    changed = [f"{name} {c.fallback_from} -> {c.qtype}" for name, c in choices.items() if c.fallback_from]
    if changed and recipe.on_fallback == "error":
        raise RecipeError(
            f"{len(changed)} of {len(choices)} tensors have rows that do not fit their type: {_some(changed)}",
            hint="accept the other types with --on-fallback report, or choose a type with blocks of 32 such as q8_0",
        )


def _importance(drafts: Sequence[Unit], imatrix: Imatrix) -> tuple[dict[str, F32], tuple[tuple[str, str], ...]]:
    """The weights of the tensors whose type uses them. Sizes are checked for every tensor that is quantized."""
    from quantkit.formats.gguf.imatrix import match_importance

    shapes = {d.name: d.tensor.shape for d in drafts if not d.copy and d.word not in UNROUNDED}
    found, notes = match_importance(imatrix, shapes, {d.name for d in drafts})
    used = {d.name for d in drafts if base.get(d.word).uses_importance}
    return {name: weights for name, weights in found.items() if name in used}, notes


def _require_importance(drafts: Sequence[Unit], importance: Mapping[str, F32], recipe: Recipe) -> None:
    """llama-quant.cpp, tensor_requires_imatrix: some types are useless without; embeddings and output are spared."""
    needs = recipe.mixture.needs_imatrix if recipe.mixture else ()
    spared = {"token_embd.weight", "per_layer_token_embd.weight", "output.weight"}
    missing = [
        f"{d.name} {d.word}"
        for d in drafts
        if (d.word in needs or base.get(d.word).needs_importance)
        and not (d.copy or d.layout)
        and d.name not in spared
        and d.name not in importance
    ]
    if missing:
        raise RecipeError(
            f"{recipe.name} needs importance weights, and {len(missing)} tensors have none: {_some(missing)}",
            hint="give --imatrix FILE or --calib TEXT, or choose a recipe that does without, such as q2_k",
            tensor=missing[0].split()[0],
        )


def _metadata(
    model: Model, checkpoint: Checkpoint, recipe: Recipe, chosen: Iterable[KeyValue], drafts: Sequence[Unit]
) -> tuple[KeyValue, ...]:
    """The model's metadata, then what llama-quantize appends, in its order, then where the file comes from.

    `chosen` says how values were chosen.
    """
    file_type = file_type_of(drafts, recipe.mixture.file_type if recipe.mixture else 0, recipe.weights.type)
    adapter = recipe.mixture is not None and recipe.mixture.adapter  # has no type of its own
    added = [
        KeyValue("general.quantization_version", "u32", QUANTIZATION_VERSION),
        *(() if adapter else (KeyValue("general.file_type", "u32", file_type),)),
        *chosen,
        KeyValue("quantkit.version", "string", __version__),
        KeyValue("quantkit.recipe", "string", recipe.label),
    ]
    if checkpoint.repo:
        added.append(KeyValue("quantkit.source.repo", "string", checkpoint.repo))
    if checkpoint.commit:
        added.append(KeyValue("quantkit.source.commit", "string", checkpoint.commit))
    replaced = {kv.key for kv in added}
    kept = [kv for kv in model.metadata if kv.key not in replaced and not kv.key.startswith(DROPPED_KEYS)]
    return tuple(map(_as_text, (*kept, *added)))


def _as_text(entry: KeyValue) -> KeyValue:
    """An entry whose words UTF-8 can hold: names of folders and of config.json may have bytes or halves of characters
    that it cannot, and those become escapes. Tokens are left alone: there it matters."""
    if entry.array or not isinstance(entry.value, str) or not entry.key.startswith(NAMING_KEYS):
        return entry
    return replace(entry, value=utf8(entry.value).decode())


def _lay_out(
    drafts: Sequence[Unit], metadata: tuple[KeyValue, ...], stem: str, split_bytes: int | None
) -> tuple[tuple[Unit, ...], tuple[PlannedFile, ...]]:
    """Place tensors in files. Only the first file of several carries the model's metadata."""
    entries = [_entry(draft) for draft in drafts]
    shards = split_files(entries, metadata, split_bytes) if split_bytes else [range(len(drafts))]
    units: list[Unit] = []
    files: list[PlannedFile] = []
    for number, shard in enumerate(shards):
        mine = metadata if number == 0 else ()
        if len(shards) > 1:
            mine += split_metadata(number, len(shards), len(drafts))
        members = [drafts[index] for index in shard]
        header = encode_header(mine, [entries[index] for index in shard])
        name = shard_name(stem, number, len(shards)) if len(shards) > 1 else f"{stem}.gguf"
        files.append(PlannedFile(name, header.data, header.nbytes))
        units += [_place(draft, number, offset) for draft, offset in zip(members, header.offsets, strict=True)]
    return tuple(units), tuple(files)


def _place(draft: Unit, file: int, offset: int) -> Unit:
    [tensor] = draft.outputs
    return replace(draft, outputs=(replace(tensor, file=file, offset=offset),))


def _entry(draft: Unit) -> TensorEntry:
    number = base.get(draft.word).gguf
    if number is None:
        raise UnsupportedError(
            f"{draft.name}: GGUF has no type {draft.word}", tensor=draft.name, hint="see `quantkit schemes`"
        )
    return TensorEntry(draft.name, draft.tensor.shape, number, draft.nbytes)


def _warnings(units: Sequence[Unit], allotment: Allotment | None) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = list(allotment.warnings if allotment else ())
    changed = [f"{u.name} {u.wanted} -> {u.word}" for u in units if u.wanted]
    if changed:
        found.append(("fallback", f"{len(changed)} of {len(units)} tensors take another type: {_some(changed)}"))
    bits = _layer_bits(units)
    if bits < LOW_BITS_PER_WEIGHT:
        what = f"{bits:.2f} bits per weight in the layers lose visible quality"
        found.append(("low-bits", f"{what}: measure it with `quantkit verify FILE --against SRC --engine llama.cpp`"))
    return found


def _layer_bits(units: Sequence[Unit]) -> float:
    """Bits per weight of the type that holds most of the matrices, embedding and output apart; 32 without any.

    The mean over the file would hide it: a large vocabulary in more bits lifts Q2_K above three.
    """
    weights: defaultdict[str, int] = defaultdict(int)
    for unit in units:
        if len(unit.tensor.shape) > 1 and unit.tensor.role not in (Role.TOKEN_EMBD, Role.OUTPUT):
            weights[unit.word] += prod(unit.tensor.shape)
    return base.get(max(weights, key=weights.__getitem__)).bits_per_weight if weights else 32.0


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


@record
class Placed:
    """A tensor as a finished file has it: its type, and where it begins in which file."""

    name: str
    qtype: str
    file: int
    offset: int


def digest_of(
    placed: Sequence[Placed],
    headers: Sequence[tuple[int, str]],
    model: Model,
    checkpoint: Checkpoint,
    *,
    preserve: bool = False,
) -> str:
    """The digest of the plan without importance weights that gives files with these tensors, with grids kept or not.

    `headers` are each file's size and the SHA-256 of its header. "" where the model has other tensors.
    """
    sources = checkpoint.tensors()
    names = {t.name for t in model.tensors}
    choices = {t.name: Choice(t.qtype, "") for t in placed if t.name in names}
    if set(choices) != names:
        return ""
    decode = PlanOptions(allow_requantize=True)
    planned = with_factors(_drafts(model, choices, sources, decode, preserve=preserve), checkpoint)
    drafts = {draft.name: draft for draft in planned}
    if set(drafts) != {t.name for t in placed}:
        return ""
    return _digest([_place(drafts[t.name], t.file, t.offset) for t in placed], headers)


def _digest(
    units: Sequence[Unit], headers: Sequence[tuple[int, str]], method: Mapping[str, object] = MappingProxyType({})
) -> str:
    """SHA-256 of a canonical text of everything that decides the output bytes."""
    weighted = [(u.name, u.importance) for u in sorted(units, key=lambda u: u.name) if u.importance is not None]
    body = {
        "numerics": qtypes.NUMERICS,
        "tensors": [
            (u.name, u.word, u.copy, t.file, t.offset, t.nbytes, t.shape, u.tensor.add, *_layout(u.tensor))
            for u in units
            for t in u.outputs
        ],
        "files": list(headers),
        **({"grids": {u.name: u.grid for u in units if u.grid}} if any(u.grid for u in units) else {}),
        "importance": {name: hashlib.sha256(weights.data).hexdigest() for name, weights in weighted},
        **method,
    }
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _layout(tensor: ModelTensor) -> tuple[object, ...]:
    """Where the rows of a tensor come from and in which order they are stored, as JSON can write it."""
    order = tensor.row_order.order if tensor.row_order else ()
    return order, [part.identity for part in tensor.parts]
