"""A checkpoint with LoRA adapters merged into its weights, in float32 and a slab of rows at a time.

Everything above sees the merged weights alone: families, plans, calibration, checks. What adapters add is summed in
float64 in the order of the rank and rounded once, so that a row has the same bits whichever slab it is read with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from quantkit.errors import InputError, QuantkitError
from quantkit.families.layers import trunk_of
from quantkit.families.towers import text_family
from quantkit.qtypes.kept import kept
from quantkit.records import record
from quantkit.source.adapter import WEIGHTS, Adapter, Change, no_place
from quantkit.source.base import Checkpoint, Over, SourceFile, StoredTensor, as_float32
from quantkit.tensors import F32, U8, TensorInfo, TensorRef
from quantkit.untrusted import shown

WEIGHT, BIAS = ".weight", ".bias"
ROWS_AT_ONCE = 1 << 20  # weights that are read at once where lengths of columns are summed


@kept
def _add_product(values: F32, left: F32, right: F32, scale: float) -> None:
    """values (n, cols) += scale * left (n, rank) @ right (rank, cols), summed in float64 and rounded once."""
    rows, cols = values.shape
    total = np.empty(cols, np.float64)
    for row in range(rows):
        for col in range(cols):
            total[col] = 0.0
        for k in range(left.shape[1]):
            weight = np.float64(left[row, k])
            for col in range(cols):
                total[col] += weight * right[k, col]
        for col in range(cols):
            values[row, col] = np.float32(np.float64(values[row, col]) + scale * total[col])


@dataclass
class _Lengths:
    """The factors of a layer with magnitudes that keeps (in, out): one for each column, found when first asked for."""

    factors: F32 | None = None
    lock: Any = field(default_factory=Lock)


@record
class Added:
    """A module's change as rows of the weight see it. `lengths` are kept for turned layers with magnitudes alone."""

    change: Change
    lengths: _Lengths = field(default_factory=_Lengths, compare=False)

    def apply(self, values: F32, base: TensorRef, start: int, stop: int) -> F32:
        """Rows [start, stop) with the change, from `values` of earlier ones; `base` is the weight before all."""
        self._add(values, start, stop)
        if self.change.magnitude is None:
            return values
        if self.change.turned:
            return _times(values, self._column_factors(base))
        bare = base.read(start, stop)
        self._add(bare, start, stop)
        lengths = np.sqrt(np.square(bare, dtype=np.float64).sum(axis=1))
        return _times(values, (self._magnitudes()[start:stop] / lengths).astype(np.float32)[:, None])

    def _add(self, values: F32, start: int, stop: int) -> None:
        change = self.change
        if change.turned:
            left = np.ascontiguousarray(change.a.read(0, change.rank)[:, start:stop].T)
            right = np.ascontiguousarray(change.b.read(0, change.b.info.rows).T)
        else:
            left, right = change.b.read(start, stop), change.a.read(0, change.rank)
        _add_product(values, left, right, change.scale)

    def _magnitudes(self) -> F32:
        assert self.change.magnitude is not None
        info = self.change.magnitude.info
        return self.change.magnitude.read(0, info.rows).reshape(-1)

    def _column_factors(self, base: TensorRef) -> F32:
        """Magnitudes over the lengths of columns, float32 (cols,): the whole weight is read once for it."""
        with self.lengths.lock:
            if self.lengths.factors is None:
                squares = np.zeros(base.info.cols, np.float64)
                step = max(ROWS_AT_ONCE // base.info.cols, 1)
                for first in range(0, base.info.rows, step):
                    last = min(first + step, base.info.rows)
                    values = base.read(first, last)
                    self._add(values, first, last)
                    squares += np.square(values, dtype=np.float64).sum(axis=0)
                self.lengths.factors = (self._magnitudes() / np.sqrt(squares)).astype(np.float32)
            return self.lengths.factors


def _times(values: F32, factors: F32) -> F32:
    return np.multiply(values, factors, dtype=np.float32)


@record
class AddedBias:
    """Numbers that are added to a bias."""

    values: StoredTensor
    scale: float

    def apply(self, values: F32, base: TensorRef, start: int, stop: int) -> F32:
        more = self.values.read(0, self.values.info.rows).reshape(-1, 1)[start:stop].astype(np.float64)
        return (values.astype(np.float64) + self.scale * more).astype(np.float32)


@record
class Instead:
    """A whole tensor of the adapter, in place of the base model's."""

    values: StoredTensor

    def apply(self, values: F32, base: TensorRef, start: int, stop: int) -> F32:
        return self.values.read(start, stop)


Merge = Added | AddedBias | Instead


@record
class MergedTensor:
    """A tensor with what adapters change, in their order. Reading is safe from several threads."""

    info: TensorInfo
    base: TensorRef
    merges: tuple[Merge, ...]

    def read(self, start: int, stop: int) -> F32:
        """Rows [start, stop), float32 (stop - start, cols)."""
        values = self.base.read(start, stop)
        if start == stop:
            return values
        for merge in self.merges:
            values = merge.apply(values, self.base, start, stop)
        return values

    def read_packed(self, start: int, stop: int) -> U8:
        """The same as bytes of float32."""
        return np.ascontiguousarray(self.read(start, stop)).view(np.uint8).reshape(stop - start, -1)


@record
class MergedCheckpoint(Over):
    """A checkpoint whose weights are merged with adapters. See `quantkit.source.Checkpoint`.

    Tensors that an adapter changes count as float32: nothing is rounded before the recipe rounds.
    """

    adapters: tuple[Adapter, ...]
    merges: Mapping[str, tuple[Merge, ...]]
    infos: Mapping[str, TensorInfo]

    @property
    def name(self) -> str:
        return "-".join([self.base.name, *(adapter.name for adapter in self.adapters)])

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.infos

    def ref(self, name: str) -> TensorRef:
        found = self.base.ref(name)
        merges = self.merges.get(name)
        return found if merges is None else MergedTensor(self.infos[name], found, merges)

    def files(self) -> tuple[SourceFile, ...]:
        """Those of the base model, and those of the adapters by their number."""
        own = (adapter.files(f"adapters/{n}/") for n, adapter in enumerate(self.adapters, 1))
        return (*self.base.files(), *(file for files in own for file in files))

    def unchanged(self) -> None:
        self.base.unchanged()
        for adapter in self.adapters:
            adapter.unchanged()

    def close(self) -> None:
        self.base.close()
        for adapter in self.adapters:
            adapter.close()


def merged_with(base: Checkpoint, adapters: Sequence[Adapter]) -> MergedCheckpoint:
    """The checkpoint with adapters, the first one merged first. Reads headers only.

    Raises InputError naming the parts of an adapter that have no place in the model, or another shape than there.
    """
    tensors = base.tensors()
    places = _places(base)
    merges: dict[str, tuple[Merge, ...]] = {}

    def put(name: str, merge: Merge) -> None:
        merges[name] = (*merges.get(name, ()), merge)

    for adapter in adapters:
        homeless: list[str] = []
        for change in adapter.changes:
            weight = places.get(f"{change.module}{WEIGHT}")
            bias = places.get(f"{change.module}{BIAS}")
            if weight is None or (change.bias is not None and bias is None):
                homeless.append(change.module if weight is None else f"{change.module}{BIAS}")
                continue
            _require_shape(tensors[weight], change.shape, change.module)
            put(weight, Added(change))
            if change.bias is not None and bias is not None:
                put(bias, AddedBias(change.bias, change.scale))
        for name, tensor in adapter.saved.items():
            place = places.get(name)
            if place is None:
                homeless.append(name)
                continue
            _require_shape(tensors[place], tensor.info.shape, name)
            put(place, Instead(tensor))
        if homeless:
            raise no_place(homeless, shown(base.name))
    infos = {name: as_float32(info) if name in merges else info for name, info in tensors.items()}
    return MergedCheckpoint(base, tuple(adapters), merges, infos)


def _require_shape(info: TensorInfo, shape: tuple[int, ...], part: str) -> None:
    if info.shape != shape:
        what = f'"{shown(part)}" of the adapter is for a tensor of shape {list(shape)}, "{info.name}" has'
        hint = "the adapter was made for another model, or for one whose vocabulary was enlarged"
        raise InputError(f"{what} {list(info.shape)}", tensor=info.name, path=WEIGHTS, hint=hint)


def _places(base: Checkpoint) -> dict[str, str]:
    """Every name that an adapter may have for a tensor -> its name in the checkpoint.

    An adapter names modules as they are called in memory, where a checkpoint may have an older spelling or other
    prefixes: both are brought into the spelling of the family.
    """
    found = {name: name for name in base.tensors()}
    try:
        (family, _), tower = text_family(base.config)
        layers = trunk_of(family.hparams(base.config))
    except QuantkitError:
        return found

    def spell(name: str) -> str:
        if tower is not None and tower.is_own(name):
            return tower.spelled(name)
        return family.source_name(name, layers)

    return _Spelled({**{spell(name): name for name in base.tensors()}, **found}, spell)


class _Spelled(dict[str, str]):
    """A mapping that tries a name in the family's spelling, too."""

    def __init__(self, known: Mapping[str, str], spell: Any) -> None:
        super().__init__(known)
        self._spell = spell

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, super().get(self._spell(name), default))
