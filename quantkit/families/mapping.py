"""From the tensors of a checkpoint to the tensors of the target, by the rows of a family. Headers only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod
from typing import Protocol

from quantkit.errors import InputError, UnsupportedError
from quantkit.families.expressions import ANY, evaluate
from quantkit.families.hparams import CONFIG_HINT, MAX_LAYERS, Hparams
from quantkit.families.layers import KINDS, trunk_of
from quantkit.families.model import ModelTensor
from quantkit.families.parts import MAPS, Mapped
from quantkit.families.placements import Placement
from quantkit.families.roles import Role, stays_f32
from quantkit.families.rows import ALWAYS, NUMBER, PRESENT, Drop, Stack, T
from quantkit.records import record
from quantkit.tensors import FLOAT_DTYPES, WHOLE_DTYPES, TensorInfo
from quantkit.units import counted
from quantkit.untrusted import shown

COMPARED = 200  # characters of an unknown name that are compared with known ones: the comparison is quadratic


class Rowed(Protocol):
    """Rows by which tensors are mapped: those of a family, or of an encoder beside the language model."""

    @property
    def label(self) -> str: ...

    @property
    def outside(self) -> tuple[T, ...]: ...

    @property
    def drop(self) -> tuple[Drop, ...]: ...

    @property
    def extra(self) -> Callable[[Hparams], tuple[ModelTensor, ...]] | None: ...

    @property
    def skips_further(self) -> str | None: ...

    def all_stacks(self) -> tuple[Stack, ...]: ...

    def source_name(self, name: str, layers: int = 0) -> str: ...

    def is_skipped(self, name: str, hparams: Hparams) -> bool: ...


@record
class Row:
    """A row with full names. `needed` is a configuration flag, ALWAYS or PRESENT; `unless` the flag that lifts it.

    `stack` counts the blocks that it stands in, None outside. `exact` is the pattern of a source name with digits of
    its own, whose "{}" alone are numbers.
    """

    t: T
    stack: Stack | None
    needed: str
    exact: re.Pattern[str] | None = None

    def is_sure(self, hparams: Hparams, layer: int | None) -> bool:
        """Whether its tensor has to be there, whatever other blocks have."""
        if self.needed != PRESENT:
            return self.needed == ALWAYS or hparams.flag(self.needed)
        return layer is not None and self.t.sure is not None and self.t.sure(hparams, layer)

    def numbers(self, name: str) -> list[int] | None:
        """The numbers that stand for "{}" in a source name, None where the name is another's."""
        if self.exact is None:
            return [int(number) for number in NUMBER.findall(name)]
        found = self.exact.fullmatch(name)
        return [int(number) for number in found.groups()] if found else None


@record
class Piece:
    """What a source tensor gives to a target: everything, or one expert's slice (`index`). `layer` counts the blocks of
    its stack, `before` those that text goes through before these."""

    row: Row
    layer: int | None
    index: int
    source: TensorInfo
    placement: Placement
    before: int = 0

    @property
    def target(self) -> str:
        return self.row.t.target.format(self.layer)

    @property
    def block(self) -> int | None:
        """The number of its block among all that text goes through, None outside."""
        return None if self.layer is None else self.before + self.layer


RowTable = Mapping[str, tuple[Row, ...]]


def rows_by_source(family: Rowed) -> RowTable:
    """The rows of each source name, with "{}" for every number; biases are rows of their own."""
    found: dict[str, tuple[Row, ...]] = {}
    everything: list[tuple[T, Stack | None]] = [(t, None) for t in family.outside]
    for stack in family.all_stacks():
        full = (replace(t, source=stack.source + t.source, target=stack.target + t.target) for t in stack.rows)
        everything += [(t, stack) for t in full]
    for t, of in everything:
        rows = [_row(t, of, PRESENT if t.optional else ALWAYS)]
        if t.bias is not None:
            rows.append(_row(_bias(t), of, PRESENT if t.optional else t.bias))
        for row in rows:
            key = NUMBER.sub("{}", row.t.source)
            found[key] = (*found.get(key, ()), row)
    return found


def _row(t: T, stack: Stack | None, needed: str) -> Row:
    if not NUMBER.search(t.source):
        return Row(t, stack, needed)
    pattern = "([0-9]{1,6})".join(re.escape(piece) for piece in t.source.split("{}"))
    return Row(t, stack, needed, re.compile(pattern))


def rows_of(table: RowTable, name: str) -> tuple[Row, ...]:
    """The rows for the tensor that rows call `name`, () where there are none. Braces in a name are no numbers."""
    rows = () if "{" in name else table.get(NUMBER.sub("{}", name), ())
    return tuple(row for row in rows if row.exact is None or row.numbers(name) is not None)


def _bias(t: T) -> T:
    source, target = (name.removesuffix("weight") + "bias" for name in (t.source, t.target))
    return replace(t, source=source, target=target, role=Role.BIAS, shape=t.shape.split()[0], add=0.0, stored=None)


def map_tensors(
    family: Rowed, hparams: Hparams, tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[ModelTensor, ...], dict[str, str]]:
    """The target's tensors, and the source tensors that are left out with the reason.

    Tensors from the configuration come first, then each target where the source has completed it. Raises
    UnsupportedError for a tensor that no row names, or whose target another tensor has; InputError for a tensor
    that is missing or contradicts the configuration.
    """
    table = rows_by_source(family)
    found, unknown = _found(family, table, hparams, tensors)
    dropped = {name: _reason(family, table, hparams, name) for name in unknown}
    _check_complete(table, hparams, found)
    extra = family.extra(hparams) if family.extra else ()
    return (*extra, *(_join(pieces) for pieces in found.values())), dropped


def find_pieces(
    family: Rowed, hparams: Hparams, tensors: Mapping[str, TensorInfo]
) -> tuple[Mapping[str, Sequence[Piece]], Sequence[str]]:
    """What tensors, of which any may be missing, give to targets; and those that no row names.

    Raises InputError for shapes that contradict the configuration, UnsupportedError for two tensors with one target.
    """
    return _found(family, rows_by_source(family), hparams, tensors)


def left_out(family: Rowed, hparams: Hparams, name: str) -> str | None:
    """Why a tensor that no row names is left out of a target, None where there is no reason."""
    try:
        return _reason(family, rows_by_source(family), hparams, name)
    except UnsupportedError:
        return None


def loss_warnings(family: Rowed, dropped: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A warning for each reason of `dropped` tensors (as `map_tensors` says them) with which the model does what no
    file does."""
    counts = Counter(dropped.values())
    reasons = dict.fromkeys(drop.reason for drop in family.drop if drop.told and drop.reason in counts)
    return tuple(("part-left-out", f"{why}: {counted(counts[why], 'tensor')} left out") for why in reasons)


def require_complete(family: Rowed, hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise InputError naming the first tensor that the model needs and that is missing, or has another shape.

    Tensors that no row names are none of its business.
    """
    table = rows_by_source(family)
    _check_complete(table, hparams, _found(family, table, hparams, tensors)[0])


def _found(
    family: Rowed, table: RowTable, hparams: Hparams, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, list[Piece]], list[str]]:
    """The pieces of every target, and the tensors that no row names."""
    found: dict[str, list[Piece]] = {}
    owner: dict[tuple[str, int], str] = {}
    unknown: list[str] = []
    layers = trunk_of(hparams)
    for info in tensors.values():
        name = family.source_name(info.name, layers)
        pieces = [] if family.is_skipped(name, hparams) else list(_pieces(table, name, hparams, info))
        if not pieces:
            unknown.append(info.name)
        for piece in pieces:
            other = owner.setdefault((piece.target, piece.index), info.name)
            if other != info.name:
                message = f'tensors "{other}" and "{info.name}" both claim {piece.target}'
                raise UnsupportedError(message, tensor=info.name, hint="remove one of the two from the checkpoint")
            so_far = found.pop(piece.target, [])  # put back at the end: a target's place is that of its last source
            found[piece.target] = so_far
            so_far.append(piece)
    return found, unknown


def check_shapes(family: Rowed, hparams: Hparams, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise InputError for a tensor that a row names and whose shape or number contradicts the configuration."""
    table = rows_by_source(family)
    layers = trunk_of(hparams)
    for info in tensors.values():
        name = family.source_name(info.name, layers)
        for piece in () if family.is_skipped(name, hparams) else _pieces(table, name, hparams, info):
            assert piece.source is info


def _pieces(table: RowTable, name: str, hparams: Hparams, info: TensorInfo) -> Iterator[Piece]:
    """The pieces that `info` gives as tensor `name` of the family; none if no row names it."""
    elsewhere: int | None = None
    placed = False
    for row in rows_of(table, name):
        numbers = row.numbers(name) or []
        layer = numbers[0] if row.stack else None
        if row.stack and layer is not None:
            _check_number(info, layer, row.stack.count(hparams), "num_hidden_layers")
        if not row.t.where(hparams, layer or 0):
            elsewhere = layer
            continue
        inner = numbers[1 if row.stack else 0 :]
        if inner:
            _check_number(info, inner[-1], hparams.count(row.t.index), row.t.index)
        own = hparams.of_layer(layer)
        _check_source(row.t, own, info)
        placed = True
        placement = _placed(row.t, info, own, layer)
        before = row.stack.before(hparams) if row.stack else 0
        yield Piece(row, layer, inner[-1] if inner else row.t.order, info, placement, before)
    if elsewhere is not None and not placed:
        kinds = hparams.values.get(KINDS, ())
        of = f' (of kind "{kinds[elsewhere]}")' if elsewhere < len(kinds) else ""
        message = f'tensor "{info.name}" has no place in block {elsewhere}{of} of this model by its config.json'
        hint = "config.json and the weights are not of the same model"
        raise InputError(message, tensor=info.name, key="num_hidden_layers", hint=hint)


def _placed(t: T, info: TensorInfo, hparams: Hparams, layer: int | None) -> Placement:
    """Where a source tensor's rows go, with what becomes of their values."""

    def number_of(name: str) -> float:
        each = hparams.values.get(name)
        return Hparams({name: each[layer or 0]}).required(name) if isinstance(each, tuple) else hparams.required(name)

    placement = t.place(info, hparams)
    for step in (t.value or "").split():
        what, number = (step, 1.0) if step in MAPS else (step[0], float(evaluate(step[1:], number_of)))
        placement = replace(placement, parts=tuple(Mapped(part, what, number) for part in placement.parts))
    if t.total is not None:
        placement = replace(placement, shape=tuple(hparams.size(axis) for axis in t.total.split()))
    return placement


def _check_number(info: TensorInfo, number: int, count: int, key: str) -> None:
    if number >= count:
        message = f'tensor "{info.name}" has number {number}, but config.json has {key} {count}'
        hint = "config.json and the weights are not of the same model"
        raise InputError(message, tensor=info.name, key=key, hint=hint)


def _check_source(t: T, hparams: Hparams, info: TensorInfo) -> None:
    """Shape and dtype have to be what the configuration says."""
    expected = info.shape if t.shape == ANY else tuple(hparams.size(axis) for axis in t.shape.split())
    if info.shape != expected:
        message = f'tensor "{info.name}" has shape {list(info.shape)}, config.json says {list(expected)} ({t.shape})'
        hint = "config.json and the weights are not of the same model"
        raise InputError(message, tensor=info.name, hint=hint)
    dtypes = WHOLE_DTYPES.keys() if t.stored == "i32" else FLOAT_DTYPES
    if info.dtype not in dtypes:
        known = ", ".join(sorted(dtypes))
        message = f'tensor "{info.name}" has dtype {info.dtype}, expected one of {known}'
        raise UnsupportedError(message, tensor=info.name, hint="use the checkpoint in its original precision")


def _reason(family: Rowed, table: RowTable, hparams: Hparams, tensor: str) -> str:
    """Why a tensor that no row names is left out. Raises UnsupportedError if there is no reason."""
    name = family.source_name(tensor, trunk_of(hparams))
    for drop in family.drop:
        if fnmatchcase(name, drop.pattern) and (drop.when is None or hparams.flag(drop.when)):
            return drop.reason
    if family.skips_further and family.is_skipped(name, hparams):
        return family.skips_further
    known = [_filled(source, NUMBER.findall(name)) for source in table]
    near = get_close_matches(name[:COMPARED], known, n=1, cutoff=0.0)
    raise UnsupportedError(
        f'{family.label} has no place for tensor "{shown(tensor)}"',
        tensor=tensor,
        hint=f'the nearest name it knows is "{near[0]}"; a variant of the architecture needs a row of its own',
    )


def _filled(source: str, numbers: list[str]) -> str:
    given = [*numbers, "0", "0"]
    return source.format(*given)


def _check_complete(table: RowTable, hparams: Hparams, found: Mapping[str, list[Piece]]) -> None:
    """Every mandatory target of every block is there, and every stack of experts is full.

    A target that may be missing is missing in all of its blocks, or in none.
    """
    for rows in table.values():
        for row in rows:
            if row.t.unless is not None and hparams.flag(row.t.unless):
                continue
            blocks = range(_count_of(row.stack, hparams)) if row.stack else [None]
            pieces = {
                layer: found.get(row.t.target.format(layer), []) for layer in blocks if row.t.where(hparams, layer or 0)
            }
            sure = [layer for layer in pieces if row.is_sure(hparams, layer)]
            others = pieces.keys() - sure if row.needed == PRESENT else set[int | None]()
            for layer in pieces:
                if layer in sure or (layer in others and any(pieces[other] for other in others)):
                    _check_found(row, layer, pieces[layer])


def _count_of(stack: Stack, hparams: Hparams) -> int:
    """How many blocks a stack has. Raises InputError for more than MAX_LAYERS."""
    count = stack.count(hparams)
    if count > MAX_LAYERS:
        what = f'config.json says {count:,} blocks "{stack.source.rstrip(".")}", expected {MAX_LAYERS:,} at most'
        raise InputError(what, path="config.json", hint=CONFIG_HINT)
    return count


def _check_found(row: Row, layer: int | None, pieces: list[Piece]) -> None:
    if not pieces or (row.t.total is not None and row.t.order not in {piece.index for piece in pieces}):
        number = "0" if layer is None else str(layer)
        name = _filled(row.t.source, [number])
        message = f'the checkpoint has no tensor "{name}", which {row.t.target.format(layer)} is made of'
        hint = "is a shard missing, or config.json of another model?"
        raise InputError(message, tensor=name, hint=hint)
    if row.t.total is not None:
        return  # the others of a joined target are named by rows of their own
    given = {piece.index for piece in pieces}
    first = pieces[0].placement
    rows = prod(first.shape[:-1]) if len(first.shape) > 1 else first.shape[0]
    have = sum(part.rows for piece in pieces for part in piece.placement.parts)
    if have != rows:
        index = next(number for number in range(len(given) + 1) if number not in given)
        name = _filled(row.t.source, [str(number) for number in (layer, index) if number is not None])
        message = f'the checkpoint has no tensor "{name}": {row.t.target.format(layer)} has {have} of {rows} rows'
        raise InputError(message, tensor=name, hint="is a shard missing?")


def _join(pieces: list[Piece]) -> ModelTensor:
    """One target from its pieces, experts in order."""
    ordered = sorted(pieces, key=lambda piece: piece.index)
    t, placement = ordered[0].row.t, ordered[0].placement
    return ModelTensor(
        name=ordered[0].target,
        role=t.role,
        shape=placement.shape,
        parts=tuple(part for piece in ordered for part in piece.placement.parts),
        layer=ordered[0].block,
        row_order=placement.row_order,
        add=t.add,
        limits=t.limits,
        stored=t.stored or ("f32" if _stays_f32(t, ordered[0].target, len(placement.shape)) else None),
    )


def _stays_f32(t: T, target: str, axes: int) -> bool:
    """Whether a target is f32 in a file that is not quantized: as its row says, else by its name."""
    return stays_f32(target, axes) if t.f32 is None else t.f32
