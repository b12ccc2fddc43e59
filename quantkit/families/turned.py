"""Matrices that files have as (in, out), as those of GPT-2, where a linear layer is (out, in)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantkit.errors import QuantkitError
from quantkit.families.describe import find_family
from quantkit.families.layouts import turn
from quantkit.families.mapping import rows_by_source, rows_of
from quantkit.families.rows import Family

WEIGHT = ".weight"


def turned_matrices(family: Family, names: Iterable[str], layers: int = 0) -> frozenset[str]:
    """The modules whose one matrix lies as (in, out), of tensors of these names.

    `layers` is where blocks that other spellings count by themselves begin.
    """
    table = rows_by_source(family)
    weights = (name for name in names if name.endswith(WEIGHT))
    rows = {name: rows_of(table, family.source_name(name, layers)) for name in weights}
    return frozenset(n.removesuffix(WEIGHT) for n, found in rows.items() if any(row.t.place == turn for row in found))


def turned_in(config: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """The same of a parsed config.json; none where it is of no known family."""
    try:
        return turned_matrices(find_family(config).family, names)
    except QuantkitError:
        return frozenset()
