"""GPTQ checkpoints: what GPTQModel, vLLM, transformers (through GPTQModel) and llama.cpp's converter read.

For a linear layer of weight [out, in], b bits and G groups:

    .qweight   I32 [in * b / 32, out]    codes 0..2^b-1, packed along in
    .qzeros    I32 [G, out * b / 32]     zero points, packed along out; version 1 stores each less one
    .scales    F16 [G, out]
    .g_idx     I32 [in]                  the group of each input

    W[o, i] = scales[g_idx[i], o] * (code[i, o] - zero[g_idx[i], o])

Version 1 ("gptq") cannot store a zero point of 0: readers would find 2^b. Version 2 ("gptq_v2") stores them as they
are and must say so as `checkpoint_format` too: llama.cpp and vLLM look there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.base import (
    DAMAGED,
    IN_BLOCK,
    Container,
    Headers,
    LayoutOf,
    Reading,
    SaidLayout,
    StoredOutline,
    Writing,
    Written,
    beside,
    codes_in_words,
    same_everywhere,
    section,
)
from quantkit.formats.containers.packed import (
    FLOATS,
    I32,
    WORD_BITS,
    Entry,
    PackedTensor,
    Tensors,
    pack_words,
    packed,
    scales_of,
    take,
    take_matrix,
    unpack_words,
    values_of,
    word_count,
)
from quantkit.formats.containers.pattern_sets import Targets
from quantkit.formats.containers.patterns import REGEX
from quantkit.formats.containers.settings import choice, integer, truth
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import ZERO, Quantized, ScaleDtype, Traits, group_count
from quantkit.qtypes.schemes.integers import Integers
from quantkit.records import record
from quantkit.untrusted import shown

PLAIN_EXPERTS = r"-:.*\.experts.*"  # by which vLLM leaves experts alone
# Names of blocks that optimum does not look for by itself: of MPT and DBRX, Mamba, BERT and its kin, and what the two
# stacks of HRM-Text lie in.
BLOCKS = re.compile(
    r"(transformer\.blocks|backbone\.layers|(?:\w+\.)?(?:encoder|transformer)\.layer|model(?=\.[HL]_module\.layers))\."
)
BITS = (2, 3, 4, 8)
MULTIPLE = 32  # of both dimensions, in every packing kernel
FORMATS = {"gptq": 1, "gptq_v2": 2}


@record
class GPTQLayout:
    """A GPTQ checkpoint's settings; `act_order` says that groups follow the order of activations (`desc_act`)."""

    scheme: Integers
    version: Literal[1, 2] = 1
    act_order: bool = False

    @cached_property
    def traits(self) -> Traits:
        of = self.scheme.traits
        words = codes_in_words(self.scheme.bits)
        # With groups in the order of activations, every device holds the scales of all of them.
        group = 1 if of.group == -1 or self.act_order else of.group
        summary = f"{self.name} {of.words}{' act-order' if self.act_order else ''}"
        return replace(of, format=self.name, outputs=words, inputs=lcm(group, words), summary=summary)

    @property
    def name(self) -> str:
        return "gptq" if self.version == 1 else "gptq_v2"

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return 1 << self.scheme.bits - 1

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the linear layer `module` of weight (rows, cols).

        Raises UnsupportedError for bits and dimensions that readers do not take.
        """
        bits = self.scheme.bits
        if bits not in BITS:
            hint = f"use {', '.join(map(str, BITS))} bits, or compressed-tensors"
            raise UnsupportedError(f"GPTQ checkpoints of {bits} bits", tensor=module, hint=hint, key="bits")
        if self.scheme.scale_dtype != "F16":
            what = f"GPTQ scales as {self.scheme.scale_dtype}"
            raise UnsupportedError(what, tensor=module, hint="GPTQ stores scales as F16", key="scale_dtype")
        if rows % MULTIPLE or cols % MULTIPLE:
            what = f'"{shown(module)}" has a weight of {rows:,} x {cols:,}; GPTQ kernels take multiples of {MULTIPLE}'
            raise UnsupportedError(what, tensor=module, hint="keep this layer unquantized")
        groups = group_count(cols, self.scheme.group)
        return (
            Entry(f"{module}.qweight", "I32", (word_count(cols, bits), rows)),
            Entry(f"{module}.qzeros", "I32", (groups, word_count(rows, bits))),
            Entry(f"{module}.scales", "F16", (groups, rows)),
            Entry(f"{module}.g_idx", "I32", (cols,)),
        )

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled. Raises UnsupportedError for a zero point of 0 in version 1."""
        rows, cols = quantized.codes.shape
        qweight, qzeros, scales, g_idx = self.entries(module, rows, cols)
        bits, grid = self.scheme.bits, quantized.grid
        groups = grid.scale.shape[1]
        assert scales.shape == (groups, rows), (scales.shape, grid.scale.shape)
        codes = quantized.codes - grid.qmin
        zero = grid.fields[ZERO].T - grid.qmin if ZERO in grid.fields else np.full((groups, rows), -grid.qmin)
        if self.version == 1 and not zero.all():
            why = f"which version 1 of GPTQ cannot store: readers find {1 << bits}"
            what = f'"{shown(module)}" has a zero point of 0, {why}'
            raise UnsupportedError(what, tensor=module, hint="write gptq_v2, or round with zero points from 1 on")
        group = np.arange(cols, dtype=np.int32) // (cols // groups)
        if quantized.order is not None:
            assert self.act_order, "an order needs act_order, or readers assume groups side by side"
            codes, group = _in_place(codes, quantized.order), _in_place(group[None], quantized.order)[0]
        return (
            packed(qweight, pack_words(codes, bits).T),
            packed(qzeros, pack_words(zero - (self.version == 1), bits)),
            packed(scales, grid.scale.T),
            packed(g_idx, group),
        )

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the layer `module`, the inverse of `pack`. Raises InputError for damaged tensors."""
        bits = self.scheme.bits
        scales = take_matrix(tensors, f"{module}.scales", FLOATS)
        groups, rows = scales.entry.shape
        group = _groups(self, tensors, module, groups)
        cols = group.size
        qweight = take(tensors, f"{module}.qweight", ("I32",), (word_count(cols, bits), rows))
        qzeros = take(tensors, f"{module}.qzeros", ("I32",), (groups, word_count(rows, bits)))
        stored = unpack_words(values_of(qzeros), bits, rows).astype(np.int16)  # (groups, rows)
        # Of a zero point that version 1 could not store, readers that add to each field (most) find 2^b; so do we.
        zero = (stored + (self.version == 1)).T
        codes = unpack_words(values_of(qweight).T, bits, cols).astype(np.int16)
        scale = scales_of(scales).T
        order = _order(group, groups)
        if order is None and not np.array_equal(group, np.arange(cols) // max(cols // groups, 1)):
            # Groups of unequal size: no grid has these, so that every column becomes a group of its own.
            scale, zero = scale[:, group], zero[:, group]
        elif order is not None:
            codes = codes[:, order]
        return Quantized(codes - _low(self), _grid(self, module, scale, zero), order)

    def outline(self, headers: Headers) -> StoredOutline:
        """Of spring 2023, without `g_idx`: groups lie side by side, and the columns fill the words."""
        bits = self.scheme.bits
        groups, rows = headers.info("scales", FLOATS, 2).shape
        ordered = headers.indexed or headers.has("g_idx")
        if not ordered and self.act_order and groups > 1:
            what = f'"{shown(headers.module)}" has groups in the order of activations, and no "g_idx" that says which'
            raise InputError(what, tensor=f"{headers.module}.g_idx", hint=DAMAGED)
        if ordered:
            (cols,) = headers.info("g_idx", ("I32",), 1).shape
        else:
            cols = headers.info("qweight", ("I32",), 2).shape[0] * WORD_BITS // bits
            headers.groups(cols, self.scheme.group)
        zeros = (groups, word_count(rows, bits))
        parts = (
            headers.part("qweight", ("I32",), (word_count(cols, bits), rows), 1),
            headers.part("qzeros", ("I32",), zeros, 1, Fraction(bits, WORD_BITS)),
            headers.part("scales", FLOATS, (groups, rows), 1),
            *([headers.part("g_idx", ("I32",), (cols,))] if ordered else []),
        )
        return StoredOutline(self, rows, cols, parts)


def _in_place(columns: NDArray[Any], order: I32) -> NDArray[Any]:
    """Columns (n, cols) that were taken in `order`, back where they belong."""
    out = np.empty_like(columns)
    out[:, order] = columns
    return out


def _low(layout: GPTQLayout) -> np.int16:
    return np.int16(layout.middle if layout.scheme.symmetric else 0)


def _grid(layout: GPTQLayout, module: str, scale: NDArray[np.float32], zero: NDArray[np.int16]) -> Grid:
    scale = np.ascontiguousarray(scale)
    if not layout.scheme.symmetric:
        zero = np.ascontiguousarray(zero)
        offset = -(scale * zero.astype(np.float32))
        return Grid(scale, offset, 0, layout.scheme.qmax, fields={ZERO: zero})
    if (zero != layout.middle).any():
        found = int(zero[zero != layout.middle][0])
        what = f'"{shown(module)}" is symmetric but has a zero point of {found}, expected {layout.middle}'
        wrong_version = found == layout.middle + 1 and layout.version == 1
        hint = (
            'its zero points are those of version 2: set checkpoint_format to "gptq_v2"'
            if wrong_version
            else 'set "sym" to false in its quantization_config if the zero points are right'
        )
        raise InputError(what, tensor=f"{module}.qzeros", hint=hint)
    return Grid(scale, None, layout.scheme.qmin, layout.scheme.qmax)


def _groups(layout: GPTQLayout, tensors: Tensors, module: str, groups: int) -> I32:
    """The group of every column, all of them below `groups`; side by side in checkpoints older than `g_idx`."""
    if f"{module}.g_idx" not in tensors:
        words = take_matrix(tensors, f"{module}.qweight", ("I32",)).entry.shape[0]
        cols = words * WORD_BITS // layout.scheme.bits
        size = cols if layout.scheme.group == -1 else layout.scheme.group
        if cols != groups * size:
            what = f'"{shown(module)}" has {groups} groups for {cols:,} columns, expected groups of {size:,}'
            raise InputError(what, tensor=f"{module}.scales", hint="the checkpoint does not match its configuration")
        return np.arange(cols, dtype=np.int32) // np.int32(size)
    found = take(tensors, f"{module}.g_idx", ("I32",))
    group: I32 = values_of(found)
    if group.ndim != 1 or not group.size or group.min() < 0 or group.max() >= groups:
        what = f'tensor "{shown(found.entry.name)}" does not give each column one of {groups} groups'
        raise InputError(what, tensor=found.entry.name, hint="the checkpoint is damaged: fetch it again")
    return group


def _order(group: I32, groups: int) -> I32 | None:
    """The columns sorted by group where that puts equal groups side by side, None where nothing is to be done."""
    cols = group.size
    order = np.argsort(group, kind="stable").astype(np.int32)
    side_by_side = cols % groups == 0 and np.array_equal(group[order], np.arange(cols) // (cols // groups))
    return order if side_by_side and not np.array_equal(order, np.arange(cols)) else None


def choose(weights: Weights, dtype: ScaleDtype) -> GPTQLayout:
    """The layout of these weights; scales are float16 in a model of any type."""
    lowest = 1 if weights.version == 1 else 0
    integers = Integers(weights.bits, weights.group, weights.symmetry, "F16", lowest_zero=lowest)
    return GPTQLayout(integers, weights.version, weights.act_order)


def quantization_config(
    layout: GPTQLayout, *, quantizer: str, modules: Sequence[Sequence[str]] | None = None, damping: float = 0.01
) -> dict[str, Any]:
    """The `quantization_config` of config.json, which is also all of quantize_config.json.

    `quantizer` is "name:version" of the writer. `modules` names the linear layers of a block that are quantized, in
    the order of a forward pass, where these are not all of them; transformers replaces every layer otherwise.
    `damping` must lie between 0 and 1: transformers checks it.
    """
    scheme = layout.scheme
    partial = {} if modules is None else {"modules_in_block_to_quantize": [list(names) for names in modules]}
    return {
        "quant_method": "gptq",
        "bits": scheme.bits,
        "group_size": scheme.group,
        "desc_act": layout.act_order,
        "sym": scheme.symmetric,
        "format": layout.name,
        "checkpoint_format": layout.name,
        "pack_dtype": "int32",
        "lm_head": False,
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": damping,
        **partial,
        "meta": {"quantizer": [quantizer]},
    }


def read_config(config: Mapping[str, Any]) -> GPTQLayout:
    """The layout that a quantization_config describes. Raises InputError or UnsupportedError naming the key."""
    name = choice(config, "checkpoint_format", tuple(FORMATS), choice(config, "format", tuple(FORMATS), "gptq"))
    scheme = Integers(
        bits=integer(config, "bits", BITS),
        group=integer(config, "group_size", None, 128),
        symmetry="symmetric" if truth(config, "sym", True) else "asymmetric",
        lowest_zero=0 if name == "gptq_v2" else 1,
    )
    version: Literal[1, 2] = 2 if name == "gptq_v2" else 1
    return GPTQLayout(scheme, version, truth(config, "desc_act", False))


def _config(written: Written) -> dict[str, Any]:
    layout = same_everywhere(written, "gptq")
    assert isinstance(layout, GPTQLayout)
    modules = _named_modules(written)
    said = quantization_config(layout, quantizer=written.writer, modules=modules, damping=written.damping)
    if written.keeps_experts:
        said["dynamic"] = {PLAIN_EXPERTS: {}}
    if found := next(filter(None, map(BLOCKS.match, written.layouts)), None):
        said["block_name_to_quantize"] = found[1]
    return said


def _named_modules(written: Written) -> tuple[tuple[str, ...], ...] | None:
    """The rounded layers as a GPTQ checkpoint names them, None where those are all linear layers of the blocks.

    Readers replace the layers whose names end in one of these. A name inside a block stands for all blocks, so that
    where the blocks differ every layer is given in full.
    """
    plain = {found["inside"] for name in written.plain if (found := IN_BLOCK.search(name))}
    if not plain:
        return None
    everywhere = not plain.intersection(name for group in written.block for name in group)
    return written.block if everywhere else (tuple(written.layouts),)


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """`dynamic` of GPTQModel: settings of modules by patterns, of which the first counts; "-:" leaves one as it was."""
    layout = read_config(quantization)
    overrides = quantization.get("dynamic") or {}
    if not isinstance(overrides, Mapping) or not all(isinstance(value, Mapping) for value in overrides.values()):
        raise InputError("quantization_config.dynamic is no object of objects", key="dynamic", hint=DAMAGED)
    changed = {pattern: value for pattern, value in overrides.items() if not pattern.startswith("-:")}
    targets = {REGEX + pattern.removeprefix("+:"): value for pattern, value in changed.items()}
    patterns = Targets(tuple(targets))
    layouts = {target: read_config({**quantization, **value}) for target, value in targets.items()}

    def of_module(module: str) -> SaidLayout:
        found = patterns.pattern_for(module)
        return layout if found is None else layouts[found]

    return of_module


CONTAINER = Container(
    "gptq",
    Writing(types=("int",), choose=choose, config=section(_config), sides=beside(_config)),
    Reading(
        layouts,
        components=("qweight", "qzeros", "scales", "g_idx"),
        telling=("desc_act", "damp_percent"),
        untold=((".qweight", "GPTQ or AWQ", "add the quantize_config.json of the model"),),
    ),
)
