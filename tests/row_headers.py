"""The headers of a checkpoint, made from the rows of its family."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from quantkit.families.hparams import Hparams
from quantkit.families.layers import Told, ToldNumbers
from quantkit.families.mapping import rows_by_source
from quantkit.families.rows import Family
from quantkit.tensors import TensorInfo


def headers(family: Family, hparams: Hparams) -> Iterator[TensorInfo]:
    """The mandatory tensors; of several spellings of a target the first."""
    for told in family.seen:
        for layer in range(hparams.count("num_hidden_layers")) if isinstance(told, Told) else ():
            yield TensorInfo(told.source.format(layer), "BF16", (1,), 2, values=(0.5,))
        if isinstance(told, ToldNumbers):
            for layer in range(hparams.count("num_hidden_layers")):
                if told.where(hparams, layer):
                    count = hparams.count(told.count) if told.count else 2
                    yield TensorInfo(
                        told.source.format(layer), "I64", (count,), 8 * count, values=tuple(range(1, count + 1))
                    )
    spelled: dict[str, str] = {}
    for key, rows in rows_by_source(family).items():
        for row in rows:
            t = row.t
            if t.unless is not None and hparams.flag(t.unless):
                continue
            for layer in range(row.stack.count(hparams)) if row.stack else [None]:
                stands = t.where(hparams, layer or 0) and row.is_sure(hparams, layer)
                if not stands or (spelled.setdefault(t.target.format(layer), key) != key and t.total is None):
                    continue
                inner = t.source.count("{}") - (layer is not None)
                shape = tuple(hparams.of_layer(layer).size(axis) for axis in t.shape.split())
                for number in range(hparams.count(t.index)) if inner else [None]:
                    numbers = [n for n in (layer, number) if n is not None]
                    dtype, size = ("I64", 8) if t.stored == "i32" else ("BF16", 2)
                    yield TensorInfo(t.source.format(*numbers), dtype, shape, size * prod(shape))
