"""Weights that a checkpoint stores quantized: which modules, in which tensors, and any rows of them decoded.

`stored_methods.declared` finds what a checkpoint says of its quantization, `stored_modules` the modules that are
really stored so: the tensors decide, since configurations name modules that stayed as they were. Headers tell
everything but the shapes of a few layouts, which are tensors of some bytes. Rows are decoded by cutting every tensor
of a module to what these rows need and giving the pieces to the container's own `unpack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.compressed_tensors import CompressedLayout
from quantkit.formats.containers.gptq import GPTQLayout
from quantkit.formats.containers.packed import Entry, PackedTensor
from quantkit.formats.containers.plain import PlainLayout
from quantkit.formats.containers.read_only import PresetLayout, ReadLayout, ScaledFloats, unpack
from quantkit.formats.containers.stored_methods import METHODS
from quantkit.formats.containers.stored_parts import Headers, Outline, Part, outline_of
from quantkit.qtypes.schemes.codebook import Codebook
from quantkit.qtypes.schemes.integers import Integers, RowInt8
from quantkit.qtypes.schemes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.schemes.minifloat import Float8
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorInfo
from quantkit.untrusted import shown

# Beside weights: scales of activations and of the key/value cache. They are no weights, and decoding needs none.
NOT_WEIGHTS = (
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "activation_scale",
    "k_scale", "v_scale", "q_scale", "kv_scale", "k_zero_point", "v_zero_point", "q_zero_point", "prob_scale",
)  # fmt: skip

INPUT_SCALES = ".pre_quant_scale"  # AWQ of ModelOpt: factors of inputs that no plain checkpoint has a place for

ReadPart = Callable[[Part, int, int], U8]  # the bytes of a part at [first, last) of its axis, of all without one
ReadSmall = Callable[[str], PackedTensor]


@dataclass(frozen=True)
class StoredModule:
    """A linear layer that is stored quantized: weight (rows, cols), made of `outline.parts`.

    `summary` says how, for people.
    """

    name: str
    layout: ReadLayout
    outline: Outline
    summary: str

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.layout.scheme.bits

    @property
    def unit(self) -> int:
        """Rows that can only be decoded together: they share a word or a block of codes."""
        shares = {part.per_row for part in self.outline.parts} - {Fraction(1, self.outline.tile)}
        return lcm(*(share.denominator for share in shares))

    def decode(self, start: int, stop: int, read: ReadPart) -> F32:
        """Rows [start, stop) as float32 (stop - start, cols), contiguous: exactly what `Quantized.values` has there.

        Reads little more than these rows take. Raises InputError naming the tensor for damaged ones.
        """
        pieces = [self._piece(first, last, read) for first, last in self._cut(start, stop)]
        # Containers that pack along outputs decode to columns side by side; every reader of slabs expects rows.
        return np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def _cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows between edges of tiles, but for the first piece, which may begin inside of one."""
        edge = -(-start // self.outline.tile) * self.outline.tile
        if start < edge < stop:
            yield start, edge
            start = edge
        yield start, stop

    def _piece(self, start: int, stop: int, read: ReadPart) -> F32:
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
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # who reads weights looks for infinities
                values = unpack(self.layout, self.name, tensors).values()
        except InputError as error:
            if error.tensor is not None:
                raise
            name = f"{self.name}.weight"
            raise InputError(f'tensor "{shown(name)}": {error.message}', tensor=name, hint=error.hint) from error
        return values[start - first : stop - first]


@dataclass(frozen=True)
class Stored:
    """What a quantized checkpoint holds: quantized modules, and tensors that are no weights of their own."""

    modules: Mapping[str, StoredModule]
    hidden: frozenset[str]


def stored_modules(quantization: Mapping[str, Any], tensors: Mapping[str, TensorInfo], read: ReadSmall) -> Stored:
    """The modules that are stored quantized, by name, in the order of `tensors`.

    `quantization` is what `declared` found. `read` reads whole tensors; it is asked for none above some kilobytes.
    Raises UnsupportedError for settings that are not read, InputError naming the tensor for one that is missing, or
    has another shape or type than its module must have.
    """
    method = METHODS[quantization["quant_method"]]
    layout_of = method.layouts(quantization)
    components: dict[str, list[str]] = {}
    hidden: set[str] = set()
    for name, info in tensors.items():
        suffix = next((s for s in method.components if name.endswith(f".{s}")), None)
        if suffix is not None and not (suffix == "weight" and info.dtype in FLOAT_DTYPES):
            components.setdefault(name.removesuffix(f".{suffix}"), []).append(name)
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
        plain = tensors.get(f"{name}.weight")
        if plain is None or plain.dtype not in FLOAT_DTYPES:
            said = layout_of(name)
            outline = outline_of(said, Headers(name, tensors, read, indexed))
            layout = outline.layout or said
            assert not isinstance(layout, ScaledFloats | PresetLayout), layout
            modules[name] = StoredModule(name, layout, outline, _summary(quantization["quant_method"], layout))
        elif twice := [f for f in found if f.endswith((".qweight", ".weight_packed"))]:
            what = f'"{shown(name)}" is stored twice, in "{shown(twice[0])}" and in "{shown(plain.name)}"'
            raise InputError(what, tensor=plain.name, hint="remove the tensors that do not belong to the model")
    return Stored(modules, frozenset(hidden))


def _summary(method: str, layout: ReadLayout) -> str:
    """How a module is stored, for people: "gptq w4g128 symmetric", four bits in groups of 128."""
    assert not isinstance(layout, PlainLayout), layout
    words = [method, _scheme_words(layout.scheme)]
    if isinstance(layout, CompressedLayout) and method != "modelopt":
        words.insert(1, layout.format)
    if isinstance(layout, GPTQLayout):
        words = [layout.name, *words[1:], *(["act-order"] if layout.act_order else [])]
    return " ".join(words)


def _scheme_words(scheme: Integers | Float8 | NVFP4 | MXFP4 | Codebook | RowInt8) -> str:
    if isinstance(scheme, Integers):
        group = "" if scheme.group == -1 else f"g{scheme.group}"
        return f"w{scheme.bits}{group} {'symmetric' if scheme.symmetric else 'asymmetric'}"
    if isinstance(scheme, Float8):
        return f"fp8 {scheme.strategy}"
    if isinstance(scheme, Codebook):
        return f"{scheme.table} block {scheme.block}{' nested' if scheme.double else ''}"
    return {RowInt8: "w8 LLM.int8()", NVFP4: "w4g16", MXFP4: "w4g32"}[type(scheme)]
