"""Weights that a checkpoint stores quantized: which modules, in which tensors, and any rows of them decoded.

`declared` finds what a checkpoint says of its quantization, `stored_modules` the modules that really are stored so:
the tensors decide, since configurations name modules that stayed as they were. Headers tell everything but the shapes
of a few layouts, which are tensors of some bytes. Rows are decoded by cutting every tensor of a module to what these
rows need and giving the pieces to the container's own `unpack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

import numpy as np

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats import awq, bitsandbytes, compressed_tensors, fp8, gptq
from quantkit.formats.compressed_tensors import CompressedLayout
from quantkit.formats.containers import Layout, of
from quantkit.formats.fp8 import FP8Layout
from quantkit.formats.gptq import GPTQLayout
from quantkit.formats.packed import Entry, PackedTensor
from quantkit.formats.server_config import choice, section
from quantkit.formats.stored_parts import DAMAGED, Headers, Outline, Part, outline_of
from quantkit.formats.targets import REGEX, first_match, matches
from quantkit.qtypes.codebook import Codebook
from quantkit.qtypes.integers import Integers, RowInt8
from quantkit.qtypes.microscaling import MXFP4, NVFP4
from quantkit.qtypes.minifloat import Float8, Strategy
from quantkit.tensors import F32, FLOAT_DTYPES, U8, TensorInfo
from quantkit.untrusted import shown

# Files beside config.json that describe a quantization, in the order in which servers look for them.
SIDE_CONFIGS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
CONFIG_KEYS = ("quantization_config", "compression_config")

# Beside weights: scales of activations and of the key/value cache. They are no weights, and decoding needs none.
NOT_WEIGHTS = (
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "activation_scale",
    "k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "q_zero_point", "prob_scale",
)  # fmt: skip

LayoutOf = Callable[[str], Layout]  # of the module so called; raises for one that no setting is about
ReadPart = Callable[[Part, int, int], U8]  # the bytes of a part at [first, last) of its axis, of all without one
ReadSmall = Callable[[str], PackedTensor]


@dataclass(frozen=True)
class StoredModule:
    """A linear layer that is stored quantized: weight (rows, cols), made of `outline.parts`.

    `summary` says how, for people.
    """

    name: str
    layout: Layout
    outline: Outline
    summary: str

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
            quantized = of(self.layout).unpack(self.layout, self.name, tensors)
        except InputError as error:
            if error.tensor is not None:
                raise
            name = f"{self.name}.weight"
            raise InputError(f'tensor "{shown(name)}": {error.message}', tensor=name, hint=error.hint) from error
        return quantized.values()[start - first : stop - first]


@dataclass(frozen=True)
class Stored:
    """What a quantized checkpoint holds: quantized modules, and tensors that are no weights of their own."""

    modules: Mapping[str, StoredModule]
    hidden: frozenset[str]


def declared(config: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What a checkpoint says of its quantization, None where it says nothing. The result has a `quant_method`.

    `config` is the parsed config.json, `sides` those of SIDE_CONFIGS that are there. Raises InputError for a section
    that is not an object, UnsupportedError for one of an unknown method.
    """
    text = config.get("text_config")
    places = [config, *([text] if isinstance(text, Mapping) else [])]
    found = [place[key] for place in places for key in CONFIG_KEYS if place.get(key) is not None]
    found += [sides[name] for name in SIDE_CONFIGS if name in sides]
    if not found:
        return None
    if not isinstance(found[0], Mapping):
        what = f"quantization_config is {shown(repr(found[0]))}, expected an object"
        raise InputError(what, key="quantization_config", path="config.json", hint="config.json is damaged")
    return {**found[0], "quant_method": _method_of(found[0])}


def _method_of(quantization: Mapping[str, Any]) -> str:
    """The method that a section names, or the one whose keys it has: old writers named none."""
    name = quantization.get("quant_method")
    if name is None:
        keys = {"w_bit": "awq", "zero_point": "awq", "desc_act": "gptq", "config_groups": "compressed-tensors",
                "quant_algo": "modelopt", "quantization": "modelopt"}  # fmt: skip
        name = next((method for key, method in keys.items() if key in quantization), "(none)")
    if not isinstance(name, str) or name not in METHODS:
        what = f'the weights are quantized by an unknown method (quant_method: "{shown(str(name))}")'
        hint = f"read are {', '.join(METHODS)}; else start from the original checkpoint"
        raise UnsupportedError(what, key="quantization_config", hint=hint)
    return name


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
        elif name.rpartition(".")[2] in NOT_WEIGHTS:
            hidden.add(name)
    modules: dict[str, StoredModule] = {}
    for name, found in components.items():
        hidden.update(found)
        plain = tensors.get(f"{name}.weight")
        if plain is None or plain.dtype not in FLOAT_DTYPES:
            layout = layout_of(name)
            outline = outline_of(layout, Headers(name, tensors, read))
            layout = outline.layout or layout
            modules[name] = StoredModule(name, layout, outline, _summary(quantization["quant_method"], layout))
        elif twice := [f for f in found if f.endswith((".qweight", ".weight_packed"))]:
            what = f'"{shown(name)}" is stored twice, in "{shown(twice[0])}" and in "{shown(plain.name)}"'
            raise InputError(what, tensor=plain.name, hint="remove the tensors that do not belong to the model")
    return Stored(modules, frozenset(hidden))


# What the configurations of each method say


@dataclass(frozen=True)
class _Method:
    """How one quant_method is read: the layout of each module, and the names below a module of what it is made of.

    Longer names come first where one ends another.
    """

    layouts: Callable[[Mapping[str, Any]], LayoutOf]
    components: tuple[str, ...]


def _gptq(quantization: Mapping[str, Any]) -> LayoutOf:
    """`dynamic` of GPTQModel: settings of modules by patterns, of which the first counts; "-:" leaves one as it was."""
    layout = gptq.read_config(quantization)
    overrides = quantization.get("dynamic") or {}
    if not isinstance(overrides, Mapping) or not all(isinstance(value, Mapping) for value in overrides.values()):
        raise InputError("quantization_config.dynamic is no object of objects", key="dynamic", hint=DAMAGED)
    layouts = {
        pattern.removeprefix("+:"): gptq.read_config({**quantization, **value})
        for pattern, value in overrides.items()
        if not pattern.startswith("-:")
    }

    def of_module(module: str) -> Layout:
        return next((found for pattern, found in layouts.items() if matches(REGEX + pattern, module)), layout)

    return of_module


def _awq(quantization: Mapping[str, Any]) -> LayoutOf:
    layout = awq.read_config(quantization)
    return lambda module: layout


def _bitsandbytes(quantization: Mapping[str, Any]) -> LayoutOf:
    layout = bitsandbytes.read_config(quantization)
    return lambda module: layout


def _fp8(quantization: Mapping[str, Any]) -> LayoutOf:
    layout = FP8Layout(fp8.read_config(quantization))
    return lambda module: layout


def _compressed(quantization: Mapping[str, Any]) -> LayoutOf:
    sparsity, transform = _section(quantization, "sparsity_config"), _section(quantization, "transform_config")
    for key, more in (("sparsity_config", sparsity.get("format", "dense") != "dense"),
                      ("transform_config", bool(transform.get("config_groups")))):  # fmt: skip
        if more:
            what = f"quantization_config.{key} says that weights are not only rounded"
            raise UnsupportedError(what, key=key, hint="start from the original checkpoint")
    groups = compressed_tensors.read_config(quantization)
    layouts: dict[str, CompressedLayout] = {}
    for targets, layout in groups.items():
        for target in targets:
            layouts.setdefault(target, layout)

    ignored = quantization.get("ignore") or ()
    if not isinstance(ignored, list | tuple) or not all(isinstance(target, str) for target in ignored):
        raise InputError("quantization_config.ignore is no list of names", key="ignore", hint=DAMAGED)

    def of_module(module: str) -> Layout:
        target = first_match(tuple(layouts), module)
        if any(matches(name, module) for name in ignored):
            what = f'"{shown(module)}" is stored quantized, but quantization_config.ignore names it'
            raise InputError(what, tensor=f"{module}.weight", key="ignore", hint=DAMAGED)
        if target is None:
            what = f'"{shown(module)}" is stored quantized, but no target of config_groups means it'
            raise InputError(what, tensor=f"{module}.weight", key="config_groups", hint=DAMAGED)
        return layouts[target]

    return of_module


def _section(quantization: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return section(quantization, key) if quantization.get(key) is not None else {}


def _modelopt(quantization: Mapping[str, Any]) -> LayoutOf:
    """FP8 as ModelOpt writes it: tensors as in compressed-tensors."""
    inner = section(quantization, "quantization") if "quantization" in quantization else quantization
    strategies: dict[str, Strategy] = {name: strategy for strategy, name in fp8.MODELOPT_NAMES.items()}
    algorithm = choice(inner, "quant_algo", tuple(strategies))
    layout = CompressedLayout(Float8(strategies[algorithm]))
    return lambda module: layout


METHODS = {
    "gptq": _Method(_gptq, ("qweight", "qzeros", "scales", "g_idx")),
    "awq": _Method(_awq, ("qweight", "qzeros", "scales")),
    "compressed-tensors": _Method(
        _compressed,
        ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "weight_g_idx",
         "weight"),
    ),
    "bitsandbytes": _Method(
        _bitsandbytes,
        ("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
         "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4", "SCB", "weight_format",
         "weight"),
    ),
    "fp8": _Method(_fp8, ("weight_scale_inv", "weight")),
    "modelopt": _Method(_modelopt, ("weight_scale", "weight")),
}  # fmt: skip


def _summary(method: str, layout: Layout) -> str:
    """How a module is stored, for people: "gptq w4g128 symmetric", four bits in groups of 128."""
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
