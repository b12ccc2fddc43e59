"""The linear layers of a checkpoint, under the names that loaders know: what a checkpoint for servers rounds.

The tensors of such a checkpoint keep the names of the source. Experts that the source stacks become a module each,
since loaders of quantized experts look for `experts.3.gate_proj`. Stacks with biases (gpt-oss) and flat ones (DBRX)
stay as they are: there loaders know the stacks alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family, shape_of
from quantkit.families.heads import architecture_of, without_head
from quantkit.families.hparams import Hparams
from quantkit.families.layers import TWO_STACKS, block_count, layers_end, trunk_of
from quantkit.families.mapping import require_complete, rows_by_source, rows_of
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.names import EXPERTS, block_of, expert_of, first_of_stack
from quantkit.families.roles import Role
from quantkit.families.rows import NUMBER, Drop, Family
from quantkit.families.stacked import biased_modules, flat_modules, matrix_of, turned_modules
from quantkit.families.towers import text_family
from quantkit.families.turned import turned_matrices
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

LINEAR = frozenset({
    Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_QKV, Role.ATTN_KV_B, Role.ATTN_OUTPUT,
    Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN, Role.FFN_GATE_UP,
})  # fmt: skip
# Of other roles, by the last word of their names: compressed queries, keys and values, a gate behind attention, and
# what linear attention, state spaces and short convolutions read and give. Engines round these, and not the narrow ones
# beside them.
FURTHER = frozenset({
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "gate_proj", "linear_gate", "output_gate",
    "in_proj_qkv", "in_proj_z", "in_proj", "out_proj", "o", "wq_a", "wq_b", "wkv", "wo_b",
})  # fmt: skip
FLOAT32 = ".DenseReluDense.wo."  # transformers computes with these of T5 in float32, whatever a checkpoint has
INDEXER = ".indexer."  # chooses what attention reads: engines fuse what it is made of, and it is small
STREAMS = "_hyper_connection."  # mixes the streams of a token: small, and all that a block reads goes through it
COMPRESSOR = ".compressor."  # makes one key of several tokens: loaders compute with it in float32
WEIGHT = ".weight"
STACKS = frozenset({"gate_up_proj", "up_proj", "down_proj"})
STAYING = LINEAR | {Role.ROUTER, Role.OTHER}  # of matrices that are named where they are not rounded
THINKER = "thinker."
HEADS = {"lm_head", f"{THINKER}lm_head"}
MAX_EXPERTS = 1 << 14  # the largest mixtures have some hundreds


def source_of(linear: ModelTensor) -> Rows:
    """The rows of the one source tensor that a linear layer is made of."""
    [part] = linear.parts
    [rows] = part.sources
    return rows


def in_block(name: str) -> str:
    """The name of a module relative to its block: "mlp.down_proj"."""
    return block_of(name)[1]


def outline(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], *, served: bool = True) -> Model:
    """The model as a sequence of linear layers, found by the rows of the checkpoint's family. Headers only.

    A layer is called like its module ("model.layers.3.mlp.down_proj"), is a weight (rows = out, cols = in) and made of
    rows of one source tensor. There is no metadata: config.json and the tokenizer's files are carried over. One that
    is not `served`, but only stored, may be of any family.

    Raises UnsupportedError for an unknown family, InputError for a config.json that lacks a number and a checkpoint
    that lacks a tensor.
    """
    try:
        family, architecture = find_family(config)
    except UnsupportedError:
        if served:
            raise
        family, inner = text_family(config)[0]  # behind an encoder, which is stored as it is, too
        architecture = architecture_of(config) or inner
    if served:
        require_served(family, tensors)
    hparams = family.numbers(config, tensors)
    require_complete(family, without_head(config, hparams, tensors), tensors)
    layers = trunk_of(hparams)
    after = [name for name in tensors if (family.layer_of(name, layers) or 0) >= layers_end(hparams)]
    roles = roles_of(family, tensors, layers) | dict.fromkeys(after, Role.OTHER)
    turned = turned_modules(tensors) | turned_matrices(family, tensors, layers)
    whole, before = biased_modules(tensors) | flat_modules(tensors), _before(family, hparams)
    modules = partial(_modules, family, turned=turned, whole=whole, before=before)
    found = {n: tuple(modules(info, roles[n])) for n, info in tensors.items() if n not in after}
    linears = [module for modules in found.values() for module in modules]
    if hparams.flag(TWO_STACKS):  # each of which counts from 0
        linears = [replace(linear, layer=family.layer_of(linear.name + WEIGHT, layers)) for linear in linears]
    rest = [name for name, info in tensors.items() if roles[name] is None and len(info.shape) > 1]
    dropped = _dropped(family, layers, tensors, [name for name, role in roles.items() if role is None])
    others = [*dropped, *(name for name in after if family.layer_of(name) != family.layer_of(name, layers))]
    in_memory = {drop.in_memory for reasons in dropped.values() for drop in reasons if drop.in_memory}
    covered = {_part_of(linear.name) for linear in linears}
    beside = {_part_of(name) for name in others if name.removesuffix(WEIGHT) not in HEADS} - covered
    unknown = [name for name in rest if name.removesuffix(WEIGHT) not in dropped and block_of(name)[0] is not None]
    head = next((n.removesuffix(WEIGHT) for n, role in roles.items() if role is Role.OUTPUT), None)
    staying = (name for name, role in roles.items() if role in STAYING and len(tensors[name].shape) > 1)
    renamed = [name.format(layer) for name in family.renamed for layer in range(layers)]
    alone = [
        *(name.removesuffix(WEIGHT) for name in staying if not found.get(name)),
        *(name for name in dropped if _part_of(name) in covered),
    ]
    if family.embeds:  # loaded without its head, too, and then without what stands before names
        alone = list(dict.fromkeys(spelled for name in alone for spelled in (name, family.source_name(name))))
    stay = (*alone, *renamed, *sorted(whole))
    return Model(
        family=family.name,
        architecture=architecture,
        gguf_architecture=family.gguf,
        shape=shape_of(hparams),
        tensors=tuple(linears),
        head=head,
        stay=stay,
        beside=tuple(sorted(beside | in_memory)),
        unknown=tuple(unknown),
        before=before,
    )


def _before(family: Family, hparams: Hparams) -> dict[str, int]:
    """How many blocks come before those of further stacks, by how names of these begin."""
    begun = {stack.source.partition("{}")[0]: stack.before(hparams) for stack in family.stacks}
    return {start: count for start, count in begun.items() if count}


def _dropped(
    family: Family, layers: int, tensors: Mapping[str, TensorInfo], names: Iterable[str]
) -> dict[str, list[Drop]]:
    """The modules that are left out on purpose, and why: those of matrices, and those with a bias alone, whose matrix
    is that of another, as in heads of encoders."""
    found: dict[str, list[Drop]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        tied = leaf == "bias" and module + WEIGHT not in tensors
        if tied or len(tensors[name].shape) > 1:
            spelled = family.source_name(name, layers)
            found[module if tied else name.removesuffix(WEIGHT)] = [
                drop for drop in family.drop if fnmatchcase(spelled, drop.pattern)
            ]
    return {name: reasons for name, reasons in found.items() if reasons}


def _part_of(name: str) -> str:
    """The outermost module that a tensor or module lies in, that in a thinker for one of Qwen Omni's."""
    outer = THINKER if name.startswith(THINKER) else ""
    return outer + name.removeprefix(outer).removeprefix("model.").partition(".")[0]


def further_blocks(family: Family, hparams: Hparams) -> int:
    """How many blocks may come after the last layer, to predict further tokens."""
    skipped = int(hparams.number("num_nextn_predict_layers") or 0) if family.skips_further else 0
    return max(skipped, block_count(hparams) - trunk_of(hparams))


def require_served(family: Family, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise UnsupportedError for a family whose checkpoints can be made into GGUF files alone."""
    if family.unserved is not None:
        what = f'family "{family.name}" is read for GGUF files without calibration only: {family.unserved}'
        few = any(info.stored_as is not None and (info.stored_bits or 0) < 8 for info in tensors.values())
        ternary = any(t.value == "ternary" for t in family.block)
        recipe = "bf16" if few else "tq2_0" if ternary else "q4_k_m"  # few bits are rounded once more by option alone
        imatrix = "" if ternary else "; for its importance matrix use llama-imatrix"
        hint = f"`quantkit convert MODEL --to {recipe}` works{imatrix}"
        raise UnsupportedError(what, key=family.name, hint=hint)


def require_walked(family: Family, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise UnsupportedError for a family through whose layers no text is run."""
    require_served(family, tensors)
    if family.unwalked is not None:
        what = f'family "{family.name}" is rounded without calibration, and not run here: {family.unwalked}'
        hint = "use --to nf4, int8, w8a8 or fp8; for the importance matrix of a GGUF file llama-imatrix"
        raise UnsupportedError(what, key=family.name, hint=hint)


def roles_of(family: Family, names: Iterable[str], layers: int = 0) -> dict[str, Role | None]:
    """What each tensor does; None where no row names it. Of several targets of a fused tensor, the first counts.

    `layers` is where blocks that other spellings count by themselves begin.
    """
    table = rows_by_source(family)
    rows = {name: rows_of(table, family.source_name(name, layers)) for name in names}
    return {name: found[0].t.role if found else None for name, found in rows.items()}


def _modules(
    family: Family,
    info: TensorInfo,
    role: Role | None,
    *,
    turned: Set[str],
    whole: Set[str],
    before: Mapping[str, int],
) -> Iterator[ModelTensor]:
    """The linear layers that a tensor holds. `turned` are modules whose matrices, or those of whose stacks, lie as
    (in, out), `whole` those whose stacks are not taken apart; `before` is that of a Model."""
    pieces = list(family.published.pieces_of(info))
    leaf = pieces[0][0].rpartition(".")[2]
    if role not in LINEAR and (role is not Role.OTHER or leaf not in FURTHER):
        return
    if len(info.shape) < 2 or any(part in info.name for part in (INDEXER, FLOAT32, STREAMS, COMPRESSOR)):
        return
    if f"{info.name.partition(EXPERTS)[0]}{EXPERTS}".removesuffix(".") in whole:
        return  # loaders know no names for its single matrices
    assert role is not None
    numbers = [int(number) for number in NUMBER.findall(info.name)]
    layer = first_of_stack(info.name, before) + (numbers[0] if numbers else 0)
    if len(info.shape) == 2 and pieces[0][0] in turned:
        rows = Rows(info.name, 0, info.rows, range(info.cols))
        yield ModelTensor(pieces[0][0], role, (info.cols, info.rows), (rows,), layer)
        return
    if len(info.shape) == 2:
        for name, rows in pieces:
            of = role if len(pieces) == 1 else roles_of(family, [name + WEIGHT])[name + WEIGHT]
            assert of is not None, name
            yield ModelTensor(name, of, (rows.rows, info.cols), (rows,), layer, expert=expert_of(info.name))
        return
    if len(info.shape) != 3:
        what = f'"{shown(info.name)}" has the shape {list(info.shape)}, expected a matrix or a stack of them'
        raise InputError(what, tensor=info.name, hint="config.json and the weights are not of the same model")
    count = info.shape[0]
    stem, _, which = info.name.removesuffix(WEIGHT).rpartition(".")
    if which not in STACKS:
        return  # nor for these
    halves = {"gate_up_proj": (("gate_proj", Role.FFN_GATE), ("up_proj", Role.FFN_UP))}.get(which, ((which, role),))
    if count > MAX_EXPERTS:
        message = f'tensor "{info.name}" holds {count:,} experts, at most {MAX_EXPERTS:,} are taken apart'
        raise InputError(message, tensor=info.name, hint="is config.json of this model?")
    for expert in range(count):
        for place, (name, of) in enumerate(halves):
            source, shape = matrix_of(info, expert, (place, len(halves)), turned=stem in turned)
            yield ModelTensor(f"{stem}.{expert}.{name}", of, shape, (source,), layer, expert=expert)
