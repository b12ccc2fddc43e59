"""AWQ checkpoints, version "gemm": what AutoAWQ wrote and vLLM and transformers (through GPTQModel) read.

For a linear layer of weight [out, in], 4 bits and G groups:

    .qweight   I32 [in, out / 8]    codes 0..15, packed along out
    .qzeros    I32 [G, out / 8]     zero points, packed the same way, as they are
    .scales    F16 [G, out]

    W[o, i] = scales[g, o] * (code[i, o] - zero[g, o])        g = i // group size

A word holds eight columns in the order 0 2 4 6 1 3 5 7, from the lowest bits on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError, UnsupportedError
from quantkit.formats.containers.base import (
    Container,
    Headers,
    LayoutOf,
    Reading,
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
)
from quantkit.formats.containers.settings import choice, integer, truth
from quantkit.formats.containers.weights import Weights
from quantkit.qtypes.base import Grid
from quantkit.qtypes.schemes.base import ZERO, Quantized, ScaleDtype, Traits, group_count
from quantkit.qtypes.schemes.integers import Integers, Symmetry
from quantkit.records import record
from quantkit.untrusted import shown

BITS = 4
COLUMNS_PER_WORD = 8
COLUMN_AT = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # which column lies at each place of a word
PLACE_OF = np.argsort(COLUMN_AT)


@record
class AWQLayout:
    """An AWQ checkpoint's settings. Symmetric codes are written with a zero point of 8."""

    scheme: Integers

    @cached_property
    def traits(self) -> Traits:
        of = self.scheme.traits
        return replace(of, format="awq", outputs=codes_in_words(self.scheme.bits), inputs=max(of.group, 1))

    def entries(self, module: str, rows: int, cols: int) -> tuple[Entry, ...]:
        """The tensors of the linear layer `module` of weight (rows, cols).

        Raises UnsupportedError for bits and dimensions that the container does not have.
        """
        scheme = self.scheme
        if scheme.bits != BITS or scheme.scale_dtype != "F16":
            what = f"AWQ checkpoints of {scheme.bits} bits with scales as {scheme.scale_dtype}"
            raise UnsupportedError(what, tensor=module, hint="AWQ stores 4 bits and F16 scales", key="bits")
        if rows % COLUMNS_PER_WORD:
            what = f'"{shown(module)}" has {rows:,} outputs; AWQ packs {COLUMNS_PER_WORD} of them in a word'
            raise UnsupportedError(what, tensor=module, hint="keep this layer unquantized")
        groups = group_count(cols, scheme.group)
        return (
            Entry(f"{module}.qweight", "I32", (cols, rows // COLUMNS_PER_WORD)),
            Entry(f"{module}.qzeros", "I32", (groups, rows // COLUMNS_PER_WORD)),
            Entry(f"{module}.scales", "F16", (groups, rows)),
        )

    def pack(self, module: str, quantized: Quantized, input_peak: float | None = None) -> tuple[PackedTensor, ...]:
        """The tensors of `entries`, filled."""
        rows, cols = quantized.codes.shape
        qweight, qzeros, scales = self.entries(module, rows, cols)
        grid = quantized.grid
        assert quantized.order is None, "AWQ has groups side by side"
        zero = grid.fields[ZERO] if ZERO in grid.fields else np.zeros(grid.scale.shape, np.int16)
        return (
            packed(qweight, _interleaved((quantized.codes - grid.qmin).T)),
            packed(qzeros, _interleaved((zero - grid.qmin).T)),
            packed(scales, grid.scale.T),
        )

    def unpack(self, module: str, tensors: Tensors) -> Quantized:
        """The codes and grid of the layer `module`, the inverse of `pack`. Raises InputError for damaged tensors."""
        qweight = take_matrix(tensors, f"{module}.qweight", ("I32",))
        cols, words = qweight.entry.shape
        rows = words * COLUMNS_PER_WORD
        scales = take_matrix(tensors, f"{module}.scales", FLOATS)
        groups = scales.entry.shape[0]
        group = cols if self.scheme.group == -1 else self.scheme.group
        if scales.entry.shape != (groups, rows) or groups * group != cols:
            what = f'scales of "{shown(module)}" have the shape {list(scales.entry.shape)}, the weight {rows} x {cols}'
            raise InputError(what, tensor=scales.entry.name, hint="the checkpoint is damaged: fetch it again")
        qzeros = take(tensors, f"{module}.qzeros", ("I32",), (groups, words))
        codes = _in_order(values_of(qweight)).T.astype(np.int16)
        zero = np.ascontiguousarray(_in_order(values_of(qzeros)).T.astype(np.int16))
        scale = np.ascontiguousarray(scales_of(scales).T)
        if self.scheme.symmetric and (zero == 8).all():
            return Quantized(codes - np.int16(8), Grid(scale, None, -8, 7))
        return Quantized(codes, Grid(scale, -(scale * zero.astype(np.float32)), 0, 15, fields={ZERO: zero}))

    def outline(self, headers: Headers) -> StoredOutline:
        cols, words = headers.info("qweight", ("I32",), 2).shape
        groups = headers.groups(cols, self.scheme.group)
        share = Fraction(1, COLUMNS_PER_WORD)
        rows = words * COLUMNS_PER_WORD
        parts = (
            headers.part("qweight", ("I32",), (cols, words), 1, share),
            headers.part("qzeros", ("I32",), (groups, words), 1, share),
            headers.part("scales", FLOATS, (groups, rows), 1),
        )
        return StoredOutline(self, rows, cols, parts)


def _interleaved(codes: NDArray[Any]) -> I32:
    """Codes (n, columns) as words (n, columns / 8)."""
    n = len(codes)
    ordered = codes.reshape(n, -1, COLUMNS_PER_WORD)[:, :, COLUMN_AT]
    return pack_words(ordered.reshape(n, -1), BITS)


def _in_order(words: I32) -> NDArray[np.uint8]:
    """Words (n, columns / 8) as codes (n, columns)."""
    n = len(words)
    codes = unpack_words(words, BITS, words.shape[1] * COLUMNS_PER_WORD)
    return codes.reshape(n, -1, COLUMNS_PER_WORD)[:, :, PLACE_OF].reshape(n, -1)


def choose(weights: Weights, dtype: ScaleDtype) -> AWQLayout:
    """The layout of these weights; scales are float16 in a model of any type."""
    return AWQLayout(Integers(weights.bits, weights.group, weights.symmetry, "F16"))


def quantization_config(layout: AWQLayout, *, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """The `quantization_config` of config.json, which is also all of quantize_config.json.

    `exclude` names modules, or parts of their names, that are not quantized.
    """
    return {
        "quant_method": "awq",
        "bits": BITS,
        "group_size": layout.scheme.group,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": list(exclude) or None,
    }


def read_config(config: Mapping[str, Any]) -> AWQLayout:
    """The layout that a quantization_config describes. Raises InputError or UnsupportedError naming the key."""
    names = {"w_bit": "bits", "q_group_size": "group_size"}
    plain = {names.get(key, key): value for key, value in config.items()}
    choice(plain, "version", ("gemm", "GEMM"), "gemm")
    integer(plain, "bits", (BITS,))
    symmetry: Symmetry = "asymmetric" if truth(plain, "zero_point", True) else "symmetric"
    return AWQLayout(Integers(BITS, integer(plain, "group_size", None, 128), symmetry))


def _config(written: Written) -> dict[str, Any]:
    layout = same_everywhere(written, "awq")
    assert isinstance(layout, AWQLayout)
    return quantization_config(layout, exclude=written.skipped)


def layouts(quantization: Mapping[str, Any]) -> LayoutOf:
    """The same for every module."""
    layout = read_config(quantization)
    return lambda module: layout


CONTAINER = Container(
    "awq",
    Writing(types=("int",), choose=choose, config=section(_config), sides=beside(_config)),
    Reading(layouts, components=("qweight", "qzeros", "scales"), telling=("w_bit", "zero_point")),
)
