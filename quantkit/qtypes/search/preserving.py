"""Encoding that keeps what is on a grid already: blocks that a type can hold bit for bit, and zeros.

Models that were trained with quantization, or to be ternary, have weights on a grid; the encoders of ggml look for
small errors and miss it. Here a block keeps the bytes of its encoder where they decode to the weights, rounded to the
type of the source; else it gets the scale and codes that do, where there are some; else it keeps its encoder's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from quantkit.qtypes import base, nvfp4
from quantkit.qtypes.base import as_blocks
from quantkit.qtypes.floats import to_bf16
from quantkit.qtypes.iq4_nl import LEVELS as IQ4_NL
from quantkit.qtypes.search.exact import E4M3, E8M0, F16, F64, I16, Floats, find_grids
from quantkit.qtypes.search.fp4 import LEVELS
from quantkit.qtypes.search.kept_grids import Kept
from quantkit.qtypes.search.superblocks import pack_six_bits
from quantkit.records import record
from quantkit.tensors import F32, U8

Write = Callable[[U8, F64], None]  # the scales (n,) of blocks into their bytes (n, nbytes)


@record
class Holder:
    """How a type holds weights that lie on one grid: `levels` in rising order, their `codes`, and scales of `scales`
    for each `size` weights, that `write` stores. With `group` codes are counted from the lowest level of each group,
    which has room for so many above it (`top`), and `write_lowest` stores where they begin."""

    levels: F64
    codes: I16
    size: int
    write: Write
    scales: Floats = F16
    group: int = 0
    top: int = 0
    write_lowest: Callable[[U8, NDArray[np.int64]], None] | None = None


def _half_at(*places: int) -> Write:
    """float16 at these bytes of a block."""

    def write(raw: U8, scale: F64) -> None:
        halves = np.ascontiguousarray(scale.astype("<f2")).view(np.uint8).reshape(-1, 2)
        for at in places:
            raw[:, at : at + 2] = halves

    return write


def _linear(low: int, high: int, size: int, at: int) -> Holder:
    steps = np.arange(low, high + 1)
    return Holder(steps.astype(np.float64), steps.astype(np.int16), size, _half_at(at))


def _listed(levels: F32, size: int, write: Write, scales: Floats = F16) -> Holder:
    """A type with a table of levels, whose codes are their places there; of equal ones the first."""
    values, codes = np.unique(levels.astype(np.float64), return_index=True)
    return Holder(values, codes.astype(np.int16), size, write, scales)


def _ones(first: int, values: bytes, at: int) -> Write:
    """Scales of groups that are all 1, from byte `first` on, and float16 at `at`."""
    half = _half_at(at)

    def write(raw: U8, scale: F64) -> None:
        raw[:, first : first + len(values)] = np.frombuffer(values, np.uint8)
        half(raw, scale)

    return write


def _from_lowest(top: int, group: int, half: Write, lowest: Callable[[U8, NDArray[np.int64]], None]) -> Holder:
    """A type with an offset for each group: scales of groups are 1, offsets whole steps, up to `top` of them."""
    steps = np.arange(-top, top + 1)
    return Holder(steps.astype(np.float64), steps.astype(np.int16), 256, half, F16, group, top, lowest)


def _six_bits(raw: U8, lowest: NDArray[np.int64]) -> None:
    raw[:, 4:16] = pack_six_bits(np.ones(lowest.shape, np.uint8), lowest.astype(np.uint8))


def _four_bits(raw: U8, lowest: NDArray[np.int64]) -> None:
    raw[:, :16] = 1 | lowest.astype(np.uint8) << 4


def _exponent(raw: U8, scale: F64) -> None:
    raw[:, 0] = np.round(np.log2(np.where(scale > 0, scale, 2.0**-127))).astype(np.int64) + 127


def _small_floats(raw: U8, scale: F64) -> None:
    raw[:, :4] = nvfp4.scale_bytes(scale.astype(np.float32)).reshape(-1, 4)


E2M1: F32 = LEVELS / np.float32(2)
HOLDERS: Mapping[str, Holder] = {
    "q4_0": _linear(-8, 7, 32, 0),
    "q5_0": _linear(-16, 15, 32, 0),
    "q8_0": _linear(-127, 127, 32, 0),
    "tq1_0": _linear(-1, 1, 256, 52),
    "tq2_0": _linear(-1, 1, 256, 64),
    "q2_0": _linear(-1, 2, 64, 0),
    "iq4_nl": _listed(IQ4_NL, 32, _half_at(0)),
    "mxfp4": _listed(E2M1, 32, _exponent, E8M0),
    "nvfp4": _listed(E2M1, 16, _small_floats, E4M3),
    "q6_k": Holder(np.arange(-32.0, 32), np.arange(-32, 32, dtype=np.int16), 256, _ones(192, b"\x01" * 16, 208)),
    "q3_k": Holder(
        np.arange(-4.0, 4), np.arange(-4, 4, dtype=np.int16), 256, _ones(96, b"\x11" * 8 + b"\xaa" * 4, 108)
    ),
    "q2_k": _from_lowest(3, 16, _half_at(80, 82), _four_bits),
    "q4_k": _from_lowest(15, 32, _half_at(0, 2), _six_bits),
    "q5_k": _from_lowest(31, 32, _half_at(0, 2), _six_bits),
}


def encode_preserving(name: str, w: F32, importance: F32 | None, source: str) -> tuple[U8, Kept]:
    """float32 (rows, cols) to the bytes of a type, grids kept, and what is kept.

    `source` ("BF16", "F16", "F32") is the type that the weights are stored in: a block is exact where it decodes to
    them once rounded to it. Raises NonFiniteError where the type's own encoder does.
    """
    qtype = base.get(name)
    raw = qtype.encode(w, importance)
    blocks = as_blocks(w, qtype.block)
    bytes_of = raw.reshape(-1, qtype.nbytes)
    decoded = qtype.decode(bytes_of, qtype.block)
    exact = _same(decoded, blocks, source)
    if name in HOLDERS and not exact.all():
        rest = np.flatnonzero(~exact)
        made, found = _held(name, np.ascontiguousarray(blocks[rest]), source)
        values = qtype.decode(made, qtype.block)
        found &= _same(values, blocks[rest], source)
        bytes_of[rest[found]] = made[found]
        decoded[rest[found]] = values[found]
        exact[rest[found]] = True
    zero, after = blocks == 0, decoded == 0
    kept = Kept(
        blocks=len(blocks),
        exact=int(exact.sum()),
        weights=blocks.size,
        zeros=int(zero.sum()),
        zeros_kept=int((zero & after).sum()),
        zeros_after=int(after.sum()),
    )
    return raw, kept


def _held(name: str, blocks: F32, source: str) -> tuple[U8, NDArray[np.bool_]]:
    """Bytes of blocks (n, nbytes) that are on a grid, and which are."""
    qtype, holder = base.get(name), HOLDERS[name]
    n = len(blocks)
    parts = blocks.reshape(-1, holder.size)
    places, scale, found = find_grids(parts, holder.levels, holder.scales, source)
    codes = holder.codes[places].reshape(n, qtype.block)
    whole: NDArray[np.bool_] = np.asarray(found.reshape(n, -1).all(axis=1), np.bool_)
    raw = np.zeros((n, qtype.nbytes), np.uint8)
    holder.write(raw, scale)
    if holder.write_lowest is not None:
        groups = codes.reshape(n, -1, holder.group)
        lowest = np.clip(-groups.min(axis=2).astype(np.int64), 0, holder.top)
        codes = (groups + lowest[:, :, None]).astype(np.int16)
        whole &= (codes.max(axis=(1, 2)) <= holder.top) & (codes.min(axis=(1, 2)) >= 0)
        codes = np.clip(codes, 0, holder.top).reshape(n, qtype.block)
        holder.write_lowest(raw, lowest)
    grid = qtype.unpack(raw)[1]
    return qtype.pack(codes, grid), whole


def _same(decoded: F32, blocks: F32, source: str) -> NDArray[np.bool_]:
    """Which blocks (n, size) are equal once rounded to the type of the source."""
    same: NDArray[np.bool_] = np.asarray((as_source(decoded, source) == blocks).all(axis=1), np.bool_)
    return same


def as_source(values: F32, source: str) -> F32:
    """float32 rounded to the type of a source, half to even; what it cannot hold becomes infinite."""
    if source == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if source == "BF16":
        patterns = to_bf16(np.ascontiguousarray(values)).astype(np.uint32) << np.uint32(16)
        return patterns.view(np.float32).reshape(values.shape)
    return values
