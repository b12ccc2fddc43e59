"""Rounding to nearest: every weight by itself, on the grid of the target's own fit."""

from __future__ import annotations

from quantkit.methods.base import Layer, Method, Report, Rounded, naming, require_weight
from quantkit.methods.columns.grids import lookup
from quantkit.methods.columns.pieces import round_nearest
from quantkit.methods.settings import Run, Settings
from quantkit.qtypes.target import Target


def quantize(layer: Layer, target: Target, settings: Settings, run: Run) -> Rounded:
    """Nearest codes on the grid that `target.fit` finds, weighted by the layer's importance where it has one.

    Where a reference encoder exists its bytes may differ by a code here and there (`QuantType.encode`): use that one
    for files that are to equal the reference's. Raises NonFiniteError naming the tensor.
    """
    require_weight(layer, target)
    with naming(layer.name):
        grid = target.fit(layer.weight, layer.importance)
    codes, _ = round_nearest(layer.weight, lookup(grid, len(layer.weight)))
    return Rounded(codes, grid, report=Report())


METHOD = Method("rtn", quantize, encodes=True)
