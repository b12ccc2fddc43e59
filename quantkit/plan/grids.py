"""--preserve: what a few rows of each tensor tell of a grid and of zeros that are there already.

Whether a type holds them is found by encoding these rows; what came of all rows says the manifest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from quantkit.families.model import ModelTensor, Rows
from quantkit.families.parts import Every, Made
from quantkit.metadata import KeyValue
from quantkit.plan.base import Plan, Unit
from quantkit.plan.reading import read_slab
from quantkit.qtypes import base
from quantkit.records import record
from quantkit.source import Checkpoint
from quantkit.tensors import F32, FLOAT_DTYPES, TensorInfo
from quantkit.untrusted import listed

PRESERVE_KEY = "quantkit.preserve"
SAMPLED_ROWS = 16
SAMPLED_WEIGHTS = 1 << 16
LIKELY = ("tq2_0", "q4_0", "mxfp4", "q8_0")  # grids that are looked for beside that of the planned type, coarsest first
ON_GRID = 0.99  # of the blocks
SPARSE = 0.05  # of the weights


def grid_of(unit: Unit, sources: Mapping[str, TensorInfo]) -> str:
    """The type of the source whose rounding is no part of a grid; "" for what is not rounded, or rounded otherwise."""
    if unit.copy or unit.layout is not None or base.get(unit.word).widen is not None:
        return ""
    moved = all(isinstance(part, Rows | Every | Made) for part in unit.tensor.parts) and not unit.tensor.add
    infos = [sources[rows.tensor] for part in unit.tensor.parts for rows in part.sources]
    dtypes = {info.dtype if info.stored_as is None and info.dtype in FLOAT_DTYPES else "F32" for info in infos}
    return dtypes.pop() if moved and len(dtypes) == 1 else "F32"


def keys(units: Iterable[Unit]) -> list[KeyValue]:
    """What the file says of it."""
    return [KeyValue(PRESERVE_KEY, "bool", True)] if any(unit.grid for unit in units) else []


@record
class Seen:
    """What rows of a tensor show: the share of blocks that its type holds bit for bit, the type on whose grid they are
    ("" for none), the share of zeros, of those that stay, and whether two of four weights are zeros everywhere."""

    held: float
    grid: str
    zeros: float
    zeros_kept: float
    two_of_four: bool

    @property
    def words(self) -> str:
        """For people; "" where there is nothing to preserve."""
        said = []
        if self.grid:
            how = "kept" if self.held == 1 else f"kept in {self.held:.0%} of blocks"
            said.append(f"on the grid of {self.grid}, {how}")
        if self.zeros >= SPARSE:
            pattern = " (2 of 4)" if self.two_of_four else ""
            said.append(f"{self.zeros:.0%} zeros{pattern}, {self.zeros_kept:.0%} of them kept")
        return "; ".join(said)


def looked_at(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """The plan with what some rows of each tensor show of grids and zeros, in its reasons and its notes."""
    seen = {unit.name: _look(unit, _sample(checkpoint, unit.tensor)) for unit in plan.units if unit.grid}
    units = tuple(
        replace(unit, reason="; ".join(filter(None, (unit.reason, seen[unit.name].words))))
        if unit.name in seen
        else unit
        for unit in plan.units
    )
    words = {unit.name: unit.word for unit in plan.units}
    return replace(plan, units=units, warnings=(*plan.warnings, *_notes(seen, words)))


def _sample(checkpoint: Checkpoint, tensor: ModelTensor) -> F32:
    """Some rows of a tensor that are read together, from its middle."""
    unit = tensor.unit
    rows = max(min(SAMPLED_ROWS, SAMPLED_WEIGHTS // tensor.cols) // unit, 1) * unit
    start = tensor.rows // 2 // unit * unit
    found = read_slab(checkpoint, tensor, start, min(start + rows, tensor.rows))
    return np.ascontiguousarray(found[: max(SAMPLED_ROWS, 1)])


def _look(unit: Unit, rows: F32) -> Seen:
    from quantkit.qtypes.search.preserving import encode_preserving  # numba

    weights = None if unit.importance is None else np.asarray(unit.importance, np.float32)[0]
    _, own = encode_preserving(unit.word, rows, weights, unit.grid)
    held = own.exact / own.blocks
    grid = unit.word if held >= ON_GRID else ""
    for name in LIKELY if rows.any() and not grid else ():
        if rows.shape[1] % base.get(name).block == 0:
            _, other = encode_preserving(name, rows, None, unit.grid)
            if other.exact >= ON_GRID * other.blocks:
                grid = name
                break
    zero = rows == 0
    fours = rows.shape[1] % 4 == 0 and bool((zero.reshape(-1, 4).sum(axis=1) >= 2).all())
    return Seen(held, grid, own.zeros / own.weights, own.zeros_kept / max(own.zeros, 1), fours)


def _notes(seen: Mapping[str, Seen], words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is found, tensors of a kind together; what is not kept says where it would be."""
    grids: defaultdict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for name, one in seen.items():
        if one.grid:
            grids[one.grid, words[name], one.held >= ON_GRID].append(name)
    for (grid, word, kept), names in sorted(grids.items()):
        what = f"{len(names)} tensors lie on the grid of {grid} ({listed(names, 2)})"
        yield (
            "preserved" if kept else "not-preserved",
            (f"{what}: {word} keeps it" if kept else f"{what}, which {word} does not hold: --keep REGEX={grid} does"),
        )
    sparse = [(name, one) for name, one in seen.items() if one.zeros >= SPARSE]
    lost = [name for name, one in sparse if one.zeros_kept < 1]
    if sparse:
        share = sum(one.zeros for _, one in sparse) / len(sparse)
        patterns = sum(one.two_of_four for _, one in sparse)
        what = f"{len(sparse)} tensors have zeros, {share:.0%} of their weights, {patterns} of them two in every four"
        yield "zeros", f"{what}; their types keep all of {len(sparse) - len(lost)}"
    if lost:
        what = f"zeros do not all stay zeros in {len(lost)} tensors ({listed(lost, 2)})"
        yield "zeros-lost", f"{what}: their types have offsets or no zero; --to q4_0, q8_0, q6_k or q3_k_m keep them"


class Noted(Protocol):
    """What was written of a tensor: see quantkit.storage."""

    @property
    def extra(self) -> Mapping[str, float | int | str]: ...


def facts_of_grids(plan: Plan, written: Mapping[str, Noted]) -> dict[str, list[dict[str, Any]]]:
    """What the manifest says of grids and zeros of every tensor that was looked at: {} where none was."""
    kept = {unit.name: written[unit.outputs[0].name].extra for unit in plan.units if unit.grid}
    return {"preserved": [{"name": name, **facts} for name, facts in kept.items()]} if kept else {}


def summary(kept: Sequence[Mapping[str, Any]]) -> str:
    """What became of grids and zeros of all tensors, in a line."""
    total = {key: sum(one[key] for one in kept) for key in ("blocks", "exact_blocks", "weights", "zeros", "zeros_kept")}
    whole = sum(one["exact_blocks"] == one["blocks"] for one in kept)
    before, left = total["zeros"] / max(total["weights"], 1), total["zeros_kept"] / max(total["weights"], 1)
    exact = (
        f"{whole} of {len(kept)} tensors bit for bit, {total['exact_blocks'] / max(total['blocks'], 1):.1%} of blocks"
    )
    return f"{exact} · zeros {before:.2%} of weights, {left:.2%} stay"
