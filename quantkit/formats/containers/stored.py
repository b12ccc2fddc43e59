"""Weights that a checkpoint stores quantized: which modules, in which tensors, and any rows of them decoded.

`declared` finds what a checkpoint says of its quantization, `stored_modules` the modules that are
really stored so: the tensors decide, since configurations name modules that stayed as they were. Headers tell
everything but the shapes of a few layouts, which are tensors of some bytes. Rows are decoded by cutting every tensor
of a module to what these rows need and giving the pieces to the container's own `unpack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.base import Headers, Reading, ReadLayout, StoredOutline, StoredPart
from quantkit.formats.containers.coded import coded_rows
from quantkit.formats.containers.packed import Entry, PackedTensor, Tensors
from quantkit.formats.containers.table import readings
from quantkit.records import record
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorInfo
from quantkit.untrusted import shown

# Beside weights: scales of activations and of the key/value cache. They are no weights, and decoding needs none.
NOT_WEIGHTS = (
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "activation_scale",
    "k_scale", "v_scale", "q_scale", "kv_scale", "k_zero_point", "v_zero_point", "q_zero_point", "prob_scale",
)  # fmt: skip

INPUT_SCALES = ".pre_quant_scale"  # AWQ of ModelOpt: factors of inputs that no plain checkpoint has a place for

V = TypeVar("V", np.float32, np.uint8)
ReadPart = Callable[[StoredPart, int, int], U8]  # the bytes of a part at [first, last) of its axis, of all without one
ReadSmall = Callable[[str], PackedTensor]


@record
class StoredModule:
    """A linear layer that is stored quantized: weight (rows, cols), made of `outline.parts`.

    `summary` says how, for people; `weight` is the name of what a plain checkpoint has in its place.
    """

    name: str
    layout: ReadLayout
    outline: StoredOutline
    summary: str
    weight: str

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.layout.scheme.bits

    @property
    def unit(self) -> int:
        """Rows that can only be decoded together: they share a word or a block of codes."""
        shares = {part.per_row for part in self.outline.parts} - {Fraction(1, self.outline.tile)}
        return lcm(*(share.denominator for share in shares))

    def turned(self) -> StoredModule:
        """The same where a plain checkpoint has the weight as (cols, rows)."""
        return replace(self, outline=replace(self.outline, turned=(self.outline.cols, self.outline.rows)))

    def decode(self, start: int, stop: int, read: ReadPart) -> F32:
        """Rows [start, stop) as float32 (stop - start, cols), contiguous: exactly what `Quantized.values` has there.

        Reads little more than these rows take. Raises InputError naming the tensor for damaged ones.
        """
        return self.assembled(start, stop, read, self.values)

    def assembled(self, start: int, stop: int, read: ReadPart, values: Callable[[Tensors], NDArray[V]]) -> NDArray[V]:
        """Rows [start, stop) as `decode` gives them, where `values` decodes the tensors of some rows."""
        pieces = []
        for first, last in self._cut(start, stop):
            low, tensors = self._tensors_of(first, last, read)
            pieces.append(values(tensors)[first - low : last - low])
        # Containers that pack along outputs decode to columns side by side; every reader of slabs expects rows.
        return np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def _cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows between edges of tiles, but for the first piece, which may begin inside of one."""
        edge = -(-start // self.outline.tile) * self.outline.tile
        if start < edge < stop:
            yield start, edge
            start = edge
        yield start, stop

    def _tensors_of(self, start: int, stop: int, read: ReadPart) -> tuple[int, dict[str, PackedTensor]]:
        """The tensors of the module cut to what rows [start, stop) need, and the row that they begin with."""
        first = start // self.unit * self.unit
        last = min(-(-stop // self.unit) * self.unit, self.outline.rows)
        tensors = {}
        for part in self.outline.parts:
            low, high = floor(first * part.per_row), ceil(last * part.per_row)
            shape = part.shape
            if part.axis is not None:
                shape = (*shape[: part.axis], high - low, *shape[part.axis + 1 :])
            raw = read(part, low, high)
            raw = raw if part.restated is None else part.restated(raw, last - first)
            entry = Entry(part.name, part.dtype, shape if part.restated is None else (raw.size // part.itemsize,))
            tensors[part.name] = PackedTensor(entry, raw)
        return first, tensors

    def columns(self, start: int, stop: int, within: tuple[int, int], read: ReadPart) -> F32:
        """Columns [start, stop) of the rows `within`, float32, of a stack: its tensors have groups on their axis 1."""
        group = self.outline.cols // self.outline.parts[0].shape[1]
        low, high = start // group, -(-stop // group)
        _, whole = self._tensors_of(*within, read)
        cut = {}
        for part in self.outline.parts:
            entry, shape = whole[part.name].entry, whole[part.name].entry.shape
            raw = whole[part.name].data.reshape(*shape[:2], -1)[:, low:high]
            entry = Entry(entry.name, entry.dtype, (shape[0], high - low, *shape[2:]))
            cut[part.name] = PackedTensor(entry, np.ascontiguousarray(raw).reshape(-1))
        return self.values(cut)[:, start - low * group : stop - low * group]

    def coded(self, start: int, stop: int, read: ReadPart) -> U8:
        """Rows [start, stop) as bytes of the quantization type that has their codes: see quantkit.tensors.Coded."""

        def rows(tensors: Tensors) -> U8:
            with self._named():
                return coded_rows(self.layout.unpack(self.name, tensors))

        return self.assembled(start, stop, read, rows)

    def values(self, tensors: Tensors) -> F32:
        """What the container's own reader decodes from the tensors of some rows."""
        with self._named(), np.errstate(over="ignore", invalid="ignore"):  # who reads weights looks for infinities
            return self.layout.unpack(self.name, tensors).values()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors that name no tensor name this one."""
        try:
            yield
        except InputError as error:
            if error.tensor is not None:
                raise
            what = f'tensor "{shown(self.weight)}": {error.message}'
            raise InputError(what, tensor=self.weight, hint=error.hint) from error


@record
class Stored:
    """What a quantized checkpoint holds: quantized modules, and tensors that are no weights of their own."""

    modules: Mapping[str, StoredModule]
    hidden: frozenset[str]


def _component(name: str, method: Reading, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Which component of a module a tensor is, None for one that is of no quantized module."""
    suffix = next((s for s in method.components if name.endswith(f"{method.joint}{s}")), None)
    if suffix is None or (suffix == "weight" and tensors[name].dtype in FLOAT_DTYPES):
        return None
    if suffix in method.besides:
        weight = tensors.get(method.weight(name.removesuffix(f"{method.joint}{suffix}")))
        return None if weight is None or weight.dtype in FLOAT_DTYPES else suffix
    return suffix


def stored_modules(quantization: Mapping[str, Any], tensors: Mapping[str, TensorInfo], read: ReadSmall) -> Stored:
    """The modules that are stored quantized, by name, in the order of `tensors`.

    `quantization` is what `declared` found. `read` reads whole tensors; it is asked for none above some kilobytes.
    Raises UnsupportedError for settings that are not read, InputError naming the tensor for one that is missing, or
    has another shape or type than its module must have.
    """
    method = readings()[quantization["quant_method"]]
    layout_of = method.layouts(quantization)
    components: dict[str, list[str]] = {}
    hidden: set[str] = set()
    for name in tensors:
        suffix = _component(name, method, tensors)
        if suffix is not None:
            components.setdefault(name.removesuffix(f"{method.joint}{suffix}"), []).append(name)
            hidden.add(name)
        elif name.rpartition(".")[2] in NOT_WEIGHTS:
            hidden.add(name)
        elif name.endswith(INPUT_SCALES):
            what = f'"{shown(name)}" scales the inputs of a layer, so that its weights alone are not the model'
            hint = "start from the original checkpoint, or from one that is quantized without AWQ"
            raise UnsupportedError(what, tensor=name, hint=hint)
    indexed = any(name.endswith(".g_idx") for name in hidden)
    modules: dict[str, StoredModule] = {}
    for name, found in components.items():
        weight = method.weight(name)
        plain = tensors.get(weight)
        if plain is None or plain.dtype not in FLOAT_DTYPES:
            said = layout_of(name)
            outline = said.outline(Headers(name, tensors, read, indexed, method.joint))
            traits = outline.layout.traits
            summary = traits.summary or f"{quantization['quant_method']} {traits.words}"
            modules[name] = StoredModule(name, outline.layout, outline, summary, weight)
        elif twice := [f for f in found if f.endswith((".qweight", ".weight_packed", "_blocks"))]:
            what = f'"{shown(name)}" is stored twice, in "{shown(twice[0])}" and in "{shown(plain.name)}"'
            raise InputError(what, tensor=plain.name, hint="remove the tensors that do not belong to the model")
    return Stored(modules, frozenset(hidden))
