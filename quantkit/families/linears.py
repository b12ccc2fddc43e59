"""The linear layers of a checkpoint, under the names that loaders know: what a checkpoint for servers rounds.

The tensors of such a checkpoint keep the names of the source. Experts that the source stacks become a module each,
since loaders of quantized experts look for `experts.3.gate_proj`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.describe import find_family, shape_of
from quantkit.families.heads import without_head
from quantkit.families.mapping import require_complete, rows_by_source, rows_of
from quantkit.families.model import Model, ModelTensor, Rows
from quantkit.families.names import block_of
from quantkit.families.roles import Role
from quantkit.families.rows import NUMBER, Family
from quantkit.tensors import TensorInfo
from quantkit.untrusted import shown

LINEAR = frozenset({
    Role.ATTN_Q, Role.ATTN_K, Role.ATTN_V, Role.ATTN_QKV, Role.ATTN_KV_B, Role.ATTN_OUTPUT,
    Role.FFN_GATE, Role.FFN_UP, Role.FFN_DOWN, Role.FFN_GATE_UP,
})  # fmt: skip
WEIGHT = ".weight"
MAX_EXPERTS = 1 << 14  # the largest mixtures have some hundreds


def source_of(linear: ModelTensor) -> Rows:
    """The rows of the one source tensor that a linear layer is made of."""
    [part] = linear.parts
    assert part.source is not None, linear.name
    return part.source


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
    family, architecture = find_family(config)
    if served:
        require_served(family)
    hparams = family.numbers(config, tensors)
    require_complete(family, without_head(config, hparams, tensors), tensors)
    roles = roles_of(family, tensors)
    linears = [module for name, info in tensors.items() for module in _modules(info, roles[name])]
    rest = [name for name, info in tensors.items() if roles[name] is None and len(info.shape) > 1]
    dropped = [name for name in rest if any(fnmatchcase(name, drop.pattern) for drop in family.drop)]
    beside = sorted({name.removeprefix("model.").partition(".")[0] for name in dropped} - {"lm_head"})
    unknown = [name for name in rest if name not in dropped and block_of(name)[0] is not None]
    head = next((n.removesuffix(WEIGHT) for n, role in roles.items() if role is Role.OUTPUT), None)
    routers = tuple(n.removesuffix(WEIGHT) for n, role in roles.items() if role is Role.ROUTER)
    return Model(
        family=family.name,
        architecture=architecture,
        gguf_architecture=family.gguf,
        shape=shape_of(hparams),
        tensors=tuple(linears),
        head=head,
        routers=routers,
        beside=tuple(beside),
        unknown=tuple(unknown),
    )


def require_served(family: Family) -> None:
    """Raise UnsupportedError for a family whose checkpoints can be made into GGUF files alone."""
    if family.unserved is not None:
        what = f'family "{family.name}" is read for GGUF files without calibration only: {family.unserved}'
        hint = "`quantkit convert MODEL --to q4_k_m` works; for its importance matrix use llama-imatrix"
        raise UnsupportedError(what, key=family.name, hint=hint)


def roles_of(family: Family, names: Iterable[str]) -> dict[str, Role | None]:
    """What each tensor does; None where no row names it. Of several targets of a fused tensor, the first counts."""
    table = rows_by_source(family)
    rows = {name: rows_of(table, family.source_name(name)) for name in names}
    return {name: found[0].t.role if found else None for name, found in rows.items()}


def _modules(info: TensorInfo, role: Role | None) -> Iterator[ModelTensor]:
    """The linear layers that a tensor holds."""
    if role not in LINEAR or len(info.shape) < 2:
        return
    assert role is not None
    numbers = [int(number) for number in NUMBER.findall(info.name)]
    layer = numbers[0] if numbers else 0
    if len(info.shape) == 2:
        expert = numbers[1] if len(numbers) > 1 else None
        rows = Rows(info.name, 0, info.rows)
        yield ModelTensor(info.name.removesuffix(WEIGHT), role, info.shape, (rows,), layer, expert=expert)
        return
    if len(info.shape) != 3:
        what = f'"{shown(info.name)}" has the shape {list(info.shape)}, expected a matrix or a stack of them'
        raise InputError(what, tensor=info.name, hint="config.json and the weights are not of the same model")
    count, rows_of_one, cols = info.shape
    stem, _, which = info.name.removesuffix(WEIGHT).rpartition(".")
    halves = {"gate_up_proj": (("gate_proj", Role.FFN_GATE), ("up_proj", Role.FFN_UP))}.get(which, ((which, role),))
    height = rows_of_one // len(halves)
    if count > MAX_EXPERTS:
        message = f'tensor "{info.name}" holds {count:,} experts, at most {MAX_EXPERTS:,} are taken apart'
        raise InputError(message, tensor=info.name, hint="is config.json of this model?")
    for expert in range(count):
        for place, (name, of) in enumerate(halves):
            start = expert * rows_of_one + place * height
            source = Rows(info.name, start, start + height)
            yield ModelTensor(f"{stem}.{expert}.{name}", of, (height, cols), (source,), layer, expert=expert)
