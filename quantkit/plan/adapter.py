"""A LoRA adapter as a GGUF file has it: the two matrices of every tensor that it changes, under the tensor's name.

A family's rows say where the rows of a weight go. The rows of `B` go the same way, since `W = B A` has them in the same
order; `A` stays as it is. What moves anything within a row cannot be carried through, and is refused by name. As
`convert_lora_to_gguf.py` of the reference, but for scales: llama.cpp multiplies by one alpha over each module's rank,
so that what differs from that (rsLoRA, patterns of alphas) is worked into alpha, or else into `B`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod, sqrt

from quantkit.errors import UnsupportedError
from quantkit.families.describe import shape_of
from quantkit.families.general import general_metadata
from quantkit.families.hparams import Hparams
from quantkit.families.mapping import Piece, find_pieces, left_out
from quantkit.families.model import Model, ModelTensor, Part, Rows
from quantkit.families.parts import Every, Made, Mapped
from quantkit.families.roles import Role
from quantkit.families.towers import text_family
from quantkit.metadata import KeyValue
from quantkit.source.adapter import WEIGHTS, Adapter, Change, no_place
from quantkit.source.adapter_model import AdapterCheckpoint
from quantkit.tensors import TensorInfo
from quantkit.untrusted import listed, shown

EMBEDDING = "token_embd.weight"
MERGE = "merge it: quantkit convert BASE --adapter DIR"
TURN = (("turn", ()),)
ROWS_BREAK = "is of a tensor whose rows do not stay whole in a GGUF file of this family"


def is_adapter(metadata: Mapping[str, object]) -> bool:
    """Whether the entries of a GGUF file are of an adapter's."""
    return metadata.get("general.type") == "adapter"


def describe_adapter(checkpoint: AdapterCheckpoint) -> Model:
    """The target of an adapter. Raises UnsupportedError naming what no GGUF adapter can hold, or what the family's rows
    do not carry through; InputError for what has no place in the base model."""
    adapter = checkpoint.adapter
    (family, architecture), _ = text_family(checkpoint.config)
    hparams = family.numbers(checkpoint.config, {})
    _require_plain(adapter)
    changes = {f"{change.module}.weight": change for change in adapter.changes}
    infos = {name: TensorInfo(name, "F32", c.shape, 4 * prod(c.shape)) for name, c in changes.items()}
    infos |= {name: TensorInfo(name, "F32", t.info.shape, t.info.nbytes) for name, t in adapter.saved.items()}
    found, unknown = find_pieces(family, hparams, infos)
    reasons = {name: left_out(family, hparams, name) for name in unknown}
    dropped = {name: reason for name, reason in reasons.items() if reason is not None}
    homeless = [
        *(name for name in unknown if name not in dropped),
        *(p.source.name for pieces in found.values() for p in pieces if _is_lifted(p, hparams)),
    ]
    if homeless:
        raise no_place(homeless, f"a GGUF file of {architecture}")
    alpha, factors = _alpha(adapter)
    tensors: list[ModelTensor] = []
    for target, pieces in found.items():
        if pieces[0].source.name in adapter.saved:
            tensors.append(_norm(target, pieces, adapter))
        else:
            tensors += _pair(target, pieces, changes, factors)
    weights = sum(prod(change.shape) for change in adapter.changes) + sum(
        t.info.elements for t in adapter.saved.values()
    )
    general = general_metadata(checkpoint.name, {}, checkpoint.read_file, (), "adapter", adapted=weights)
    return Model(
        family=family.name,
        architecture=architecture,
        gguf_architecture=family.gguf,
        shape=shape_of(hparams),
        tensors=tuple(tensors),
        metadata=(
            KeyValue("general.architecture", "string", family.gguf),
            *general.metadata,
            KeyValue("adapter.lora.alpha", "f32", alpha),
        ),
        dropped=dropped,
        warnings=(*general.warnings, *_norm_warnings(adapter), *_dropped_warnings(dropped)),
    )


def _is_lifted(piece: Piece, hparams: Hparams) -> bool:
    """Whether the base has no such tensor: an output head that is the embeddings."""
    return piece.row.t.unless is not None and hparams.flag(piece.row.t.unless)


def _require_plain(adapter: Adapter) -> None:
    """Raise UnsupportedError for magnitudes, biases and whole matrices."""
    for change in adapter.changes:
        for part, what in ((change.magnitude, "magnitudes (DoRA)"), (change.bias, "a bias of its own (lora_bias)")):
            if part is not None:
                raise _unsupported(change.module, f"has {what}, which no GGUF adapter holds")
    for name, tensor in adapter.saved.items():
        if len(tensor.info.shape) != 1 or "norm" not in name:
            raise _unsupported(name, "is a whole tensor of the model (modules_to_save), which no GGUF adapter holds")


def _unsupported(name: str, why: str) -> UnsupportedError:
    return UnsupportedError(f'"{shown(name)}" of the adapter {why}', tensor=name, path=WEIGHTS, hint=MERGE)


def _alpha(adapter: Adapter) -> tuple[float, dict[str, float]]:
    """What the file says as alpha, and by which numbers the `B` of modules are multiplied besides."""
    config = adapter.config
    wanted = {}
    for change in adapter.changes:
        root = sqrt(change.rank) if config.rslora else 1.0  # llama.cpp divides by the rank
        wanted[change.module] = config.alpha_of(change.module) * root
    alphas = set(wanted.values())
    alpha = alphas.pop() if len(alphas) == 1 else config.alpha
    if alpha == 0:  # llama.cpp takes no alpha for a scale of 1
        raise _unsupported("lora_alpha", "is 0: it changes nothing")
    return alpha, {module: value / alpha for module, value in wanted.items()}


def _pair(
    target: str, pieces: Sequence[Piece], changes: dict[str, Change], factors: dict[str, float]
) -> tuple[ModelTensor, ModelTensor]:
    """The two matrices, or stacks of them, of a tensor."""
    ordered = sorted(pieces, key=lambda piece: piece.index)
    first = ordered[0].placement
    mine = [changes[piece.source.name] for piece in ordered]
    rank, into = mine[0].rank, mine[0].a.info.shape[1]
    stack = len(first.shape) > 2
    if stack and len(mine) == 1 < first.shape[0]:
        raise _unsupported(mine[0].module, ROWS_BREAK)
    if len(mine) != (first.shape[0] if stack else 1):
        have = f"changes {len(mine)} of {first.shape[0]}" if stack else "joins several layers into"
        raise _unsupported(mine[0].module, f"{have} {target}: a GGUF adapter holds all of them, or one")
    if any(change.rank != rank for change in mine):
        raise _unsupported(mine[0].module, "has another rank than the other experts of its layer")
    if mine[0].embedding:
        if target != EMBEDDING:
            raise _unsupported(mine[0].module, f"is an embedding that becomes {target}")
        return _embedding(mine[0], factors)
    parts = tuple(
        part
        for piece, change in zip(ordered, mine, strict=True)
        for each in piece.placement.parts
        for part in _onto_b(each, change, factors[change.module])
    )
    front = first.shape[:-2] if stack else ()
    a = tuple(Rows(change.a.info.name, 0, rank) for change in mine)
    out = sum(part.rows for part in parts) // (first.shape[0] if stack else 1)
    return (
        ModelTensor(f"{target}.lora_a", Role.OTHER, (*front, rank, into), a, ordered[0].layer),
        ModelTensor(
            f"{target}.lora_b", Role.OTHER, (*front, out, rank), parts, ordered[0].layer, row_order=first.row_order
        ),
    )


def _embedding(change: Change, factors: dict[str, float]) -> tuple[ModelTensor, ModelTensor]:
    """Of an embedding llama.cpp picks columns of A: it has a row for each token there."""
    rank, tokens = change.a.info.shape
    width = change.b.info.shape[0]
    a = Made(Rows(change.a.info.name, 0, rank), (rank, tokens), TURN, (tokens, rank))
    b: Part = Rows(change.b.info.name, 0, width)
    if factors[change.module] != 1.0:
        b = Mapped(b, "*", factors[change.module])
    return (
        ModelTensor(f"{EMBEDDING}.lora_a", Role.OTHER, (tokens, rank), (a,)),
        ModelTensor(f"{EMBEDDING}.lora_b", Role.OTHER, (width, rank), (b,)),
    )


def _onto_b(part: Part, change: Change, factor: float) -> tuple[Part, ...]:
    """Rows of a weight as rows of its B. Raises UnsupportedError for what is not made of rows."""
    name, out = change.b.info.name, change.b.info.shape[0]
    moved: Part | None = None
    number = factor
    if isinstance(part, Mapped) and part.what == "*":
        number = factor * part.number
        part = part.part
    if isinstance(part, Made) and part.steps == TURN and change.transposed and part.region.rows == change.shape[0]:
        moved = Rows(name, 0, out)  # a layer that keeps (in, out), turned round: its B is the right way already
    elif isinstance(part, Rows | Every) and not change.transposed:
        moved = replace(part, tensor=name)
    if moved is None:
        raise _unsupported(change.module, ROWS_BREAK)
    return (moved if number == 1.0 else Mapped(moved, "*", number),)


def _norm(target: str, pieces: Sequence[Piece], adapter: Adapter) -> ModelTensor:
    """A norm that was trained, whole, as the base model's file has it."""
    [piece] = pieces
    stored = adapter.saved[piece.source.name].info.name
    rows = Rows(stored, 0, piece.source.rows)
    return ModelTensor(
        target, piece.row.t.role, piece.source.shape, (rows,), piece.layer, add=piece.row.t.add, stored="f32"
    )


def _norm_warnings(adapter: Adapter) -> tuple[tuple[str, str], ...]:
    if not adapter.saved:
        return ()
    what = f"llama.cpp leaves out the norms of an adapter ({listed(sorted(adapter.saved), 3)}); a merged model has them"
    return (("adapter-norms", what),)


def _dropped_warnings(dropped: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if not dropped:
        return ()
    names = [name.removesuffix(".weight") for name in dropped]
    what = f"{len(names)} parts of the adapter are left out with what they belong to: {listed(names, 3)}"
    return (("adapter-left-out", f"{what} ({next(iter(dropped.values()))})"),)
