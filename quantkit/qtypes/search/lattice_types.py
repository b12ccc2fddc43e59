"""What the types share that store numbers of points of a lattice: their blocks in parts, and a type made of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes.base import Codes, Grid, QuantType, as_blocks
from quantkit.qtypes.search import blocks, entries
from quantkit.qtypes.search.blocks import F16, Encoder
from quantkit.qtypes.search.groups import Weighting, frozen
from quantkit.qtypes.search.lattice import U16
from quantkit.qtypes.search.superblocks import block_sigma2
from quantkit.qtypes.search.units import Units
from quantkit.qtypes.search.vectors import Vectors
from quantkit.records import record
from quantkit.tensors import F32, U8

BLOCK = 256
SLAB = 1 << 18  # weights: their magnitudes and importance take eight bytes each besides


@record
class Parts:
    """What b blocks store, each in order: `numbers` of points (b, points), `sc` scale codes (b, groups), d (b,).

    `marks` uint8 (b, 32) belong to eight weights each: their signs as bits, or how they are shifted.
    """

    numbers: U16
    marks: U8
    d: F16
    sc: U8


class Coding(Protocol):
    """How a type finds points and scales for weights, and what they mean.

    `vectors` and `units` are what feedback needs to choose them anew, None where it cannot.
    """

    @property
    def vectors(self) -> Vectors | None: ...

    @property
    def units(self) -> Units | None: ...

    def search(self, rows: F32, importance: F32 | None) -> Parts:
        """The parts of rows (r, cols) of whole blocks."""

    def grid(self, d: F16, sc: U8) -> Grid:
        """The grid of d (b,) and scale codes (b, groups)."""

    def codes(self, parts: Parts) -> Codes:
        """The codes (b, 256) of stored parts."""

    def parts(self, chosen: Codes, on: Grid) -> Parts:
        """The parts that store codes (b, 256); vectors that the type lacks give way to the nearest that it has."""


@record
class BlockLayout:
    """The bytes of one type: `read` takes blocks (b, nbytes) apart, `write` fills them. The rest is as in QuantType."""

    name: str
    gguf: int
    nbytes: int
    code_bytes: int
    read: Callable[[U8], Parts]
    write: Callable[[Parts, U8], None]
    encode_ns: float
    needs_importance: bool = True


def lattice_type(layout: BlockLayout, coding: Coding) -> QuantType:
    """The type of these bytes and this coding."""

    def quantize(rows: F32, importance: F32 | None, raw: U8) -> Grid:
        found = coding.search(rows, importance)
        layout.write(found, raw)
        return coding.grid(found.d, found.sc)

    def pack(chosen: Codes, on: Grid) -> U8:
        raw = np.empty((len(chosen), layout.nbytes), np.uint8)
        layout.write(coding.parts(chosen, on), raw)
        return raw

    def unpack(raw: U8) -> tuple[Codes, Grid]:
        stored = layout.read(np.ascontiguousarray(raw))
        return coding.codes(stored), coding.grid(stored.d, stored.sc)

    encoder = Encoder(BLOCK, layout.nbytes, quantize, SLAB)
    return QuantType(
        name=layout.name,
        block=BLOCK,
        nbytes=layout.nbytes,
        encode=lambda w, importance: blocks.encode(w, importance, encoder),
        fit=lambda w, importance: blocks.fit(w, importance, encoder),
        pack=pack,
        unpack=unpack,
        gguf=layout.gguf,
        columnwise=False,
        uses_importance=True,
        needs_importance=layout.needs_importance,
        code_bytes=layout.code_bytes,
        inputs="q8_k",
        encode_ns=layout.encode_ns,
        units=coding.units,
        vectors=coding.vectors,
    )


@record
class Weighted:
    """Blocks x (b, 256), a view where possible, and how much an error of each weight counts, (b, 256)."""

    x: F32
    weight: F32


def weighted_blocks(rows: F32, importance: F32 | None, without: Weighting, sigma_factor: int) -> Weighted:
    """Rows (r, cols) as blocks. `without` is how errors count where there is no importance (cols,).

    IMPORTANCE then means that all columns are equally important. sigma2 is `sigma_factor` times the mean square.
    """
    x = as_blocks(rows, BLOCK)
    if importance is None and without == Weighting.IMPORTANCE:
        importance = np.ones(rows.shape[1], np.float32)
    how = without if importance is None else Weighting.IMPORTANCE
    given = frozen(np.empty(0, np.float32) if importance is None else importance)
    weight = np.empty_like(x)
    entries.weigh(x, given, block_sigma2(x, sigma_factor, 1), int(how), weight)
    return Weighted(x, weight)


def odd_units(scale: F32, top: int) -> tuple[F32, U8]:
    """Scales (b, groups) as odd multiples 2 * code + 1 of a unit: that unit (b,), NaN for a row with NaN, and codes."""
    unit, codes = np.empty(len(scale), np.float32), np.empty(scale.shape, np.uint8)
    entries.odd_units(scale, top, unit, codes)
    return unit, codes


def read_words(words: U8) -> tuple[U8, U8]:
    """Eight words (b, 32) of four times seven signs and a scale of four bits: signs (b, 32), scales (b, 8)."""
    found = np.ascontiguousarray(words).view("<u4")
    signs = np.stack([found >> shift & 127 for shift in (0, 7, 14, 21)], axis=-1).astype(np.uint8)
    return signs.reshape(len(words), 32), (found >> 28).astype(np.uint8)


def write_words(signs: U8, sc: U8) -> U8:
    """The inverse of `read_words`."""
    four = signs.reshape(len(signs), 8, 4).astype("<u4")
    words: NDArray[np.uint32] = (
        four[:, :, 0] | four[:, :, 1] << 7 | four[:, :, 2] << 14 | four[:, :, 3] << 21 | sc.astype("<u4") << 28
    )
    return words.view(np.uint8)


def read_nibbles(raw: U8) -> U8:
    """Bytes (b, n) as numbers of four bits (b, 2 * n), the low one first."""
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), 2 * raw.shape[1])


def write_nibbles(values: U8) -> U8:
    """The inverse of `read_nibbles`."""
    return (values[:, ::2] | values[:, 1::2] << 4).astype(np.uint8)
