"""Named tensors on their way into and out of a safetensors file, and words of packed codes.

    word 0                           word 1
    | c0 | c1 | c2 | ... | c7 |      | c8 | ...        4-bit codes: the first in the lowest bits
    | c0 | c1 | ... | c9 | c10's low two bits |        3-bit codes: a stream that does not stop at words

All containers for servers use this stream of little-endian 32-bit words; they differ in the axis it runs along.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import InputError
from quantkit.records import record
from quantkit.tensors import DTYPE_BYTES, F32, U8
from quantkit.untrusted import shown

I32 = NDArray[np.int32]
Unsigned = NDArray[np.uint8]

WORD_BITS = 32
STREAMED_BITS = (3, 5, 6, 7)  # sizes of codes that go on from one word to the next
NUMPY_DTYPES = {"U8": "u1", "I8": "i1", "F8_E4M3": "u1", "I16": "<i2", "I32": "<i4", "U32": "<u4", "I64": "<i8"}
FLOATS = ("F16", "BF16", "F32")
SCALES = (*FLOATS, "F8_E8M0")  # the last are powers of two: an exponent, less 127


@record(slots=True)
class Entry:
    """What a header says of a tensor: `dtype` is a safetensors name, `shape` in checkpoint order."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BYTES[self.dtype]


@record
class PackedTensor:
    """A tensor with its bytes: `data` is uint8 (entry.nbytes,), little-endian."""

    entry: Entry
    data: U8


Tensors = Mapping[str, PackedTensor]


def packed(entry: Entry, values: NDArray[Any]) -> PackedTensor:
    """`values` of entry.shape as stored: float32 is rounded to a float type, integers must already be of theirs."""
    if entry.dtype in FLOATS:
        return PackedTensor(entry, _float_bytes(values.astype(np.float32, copy=False), entry.dtype))
    raw = np.ascontiguousarray(values, np.dtype(NUMPY_DTYPES[entry.dtype])).view(np.uint8).reshape(-1)
    assert raw.size == entry.nbytes, (entry, values.shape, values.dtype)
    return PackedTensor(entry, raw)


def _float_bytes(values: F32, dtype: str) -> U8:
    from quantkit.qtypes.floats import to_bf16, to_f16  # numba: only once weights are packed

    values = np.ascontiguousarray(values)
    if dtype == "F32":
        return values.view(np.uint8).reshape(-1)
    patterns = to_f16(values) if dtype == "F16" else to_bf16(values)
    return patterns.view(np.uint8).reshape(-1)


def as_stored(values: F32, dtype: str) -> F32:
    """`values` float32 as a float type holds them, unchanged for other types. Raises NonFiniteError."""
    if dtype not in FLOATS:
        return values
    rounded: F32 = values_of(packed(Entry("", dtype, values.shape), values))
    return rounded


def take(tensors: Tensors, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> PackedTensor:
    """The tensor called `name`, of one of these dtypes and, where one is given, of this shape.

    Raises InputError for anything else: names, dtypes and shapes come from a file.
    """
    hint = "the checkpoint does not match its quantization_config: fetch it again"
    found = tensors.get(name)
    if found is None:
        raise InputError(f'there is no tensor "{shown(name)}"', tensor=name, hint=hint)
    entry = found.entry
    if entry.dtype not in dtypes:
        what = f'tensor "{shown(name)}" is stored as {entry.dtype}, expected {" or ".join(dtypes)}'
        raise InputError(what, tensor=name, hint=hint)
    if shape is not None and entry.shape != shape:
        what = f'tensor "{shown(name)}" has the shape {list(entry.shape)}, expected {list(shape)}'
        raise InputError(what, tensor=name, hint=hint)
    if found.data.size != entry.nbytes:
        what = f'tensor "{shown(name)}" has {found.data.size:,} bytes, its shape takes {entry.nbytes:,}'
        raise InputError(what, tensor=name, hint=hint)
    return found


def take_matrix(tensors: Tensors, name: str, dtypes: tuple[str, ...]) -> PackedTensor:
    """`take` for a matrix of any shape with at least one element."""
    found = take(tensors, name, dtypes)
    if len(found.entry.shape) != 2 or 0 in found.entry.shape:
        what = f'tensor "{shown(name)}" has the shape {list(found.entry.shape)}, expected a matrix'
        raise InputError(what, tensor=name, hint="the checkpoint is damaged: fetch it again")
    return found


def values_of(tensor: PackedTensor) -> NDArray[Any]:
    """The stored values in their shape: float types as float32, exactly; F8_E4M3 as its bytes."""
    entry = tensor.entry
    if entry.dtype not in FLOATS:
        return tensor.data.view(np.dtype(NUMPY_DTYPES[entry.dtype])).reshape(entry.shape)
    from quantkit.qtypes.floats import to_float32  # numba: only once weights are read

    out = np.empty(entry.shape, np.float32)
    to_float32(tensor.data, entry.dtype, out)
    return out


def scales_of(tensor: PackedTensor) -> F32:
    """The values of a tensor of scales. Raises InputError for one that is not a number."""
    scales: F32 = _powers(tensor) if tensor.entry.dtype == "F8_E8M0" else values_of(tensor)
    finite = np.isfinite(scales)
    if not finite.all():
        index = int(np.argmin(finite))
        what = f'tensor "{shown(tensor.entry.name)}" holds {scales.flat[index]} at index {index}'
        raise InputError(what, tensor=tensor.entry.name, hint="the checkpoint is damaged: fetch it again")
    return scales


def _powers(tensor: PackedTensor) -> F32:
    """Powers of two by their exponents; 255 is not a number."""
    exponents = tensor.data.reshape(tensor.entry.shape)
    return np.where(exponents == 255, np.float32(np.nan), np.ldexp(np.float32(1), exponents.astype(np.int32) - 127))


def word_count(count: int, bits: int) -> int:
    """Words that hold `count` codes of `bits` bits."""
    return -(-count * bits // WORD_BITS)


def pack_words(codes: NDArray[Any], bits: int) -> I32:
    """Codes 0..2^bits-1 (n, count) of any integer type to words int32 (n, word_count(count, bits))."""
    n, count = codes.shape
    words = word_count(count, bits)
    stream = np.zeros((n, -(-words * WORD_BITS // (8 * bits))), "<u8")  # eight codes fill `bits` bytes
    for place in range(min(8, count)):
        column = codes[:, place::8].astype(np.uint64)
        stream[:, : column.shape[1]] |= column << np.uint64(bits * place)
    raw = stream.view(np.uint8).reshape(*stream.shape, 8)[:, :, :bits].reshape(n, -1)
    return np.ascontiguousarray(raw[:, : words * 4]).view("<i4")


def unpack_words(words: I32, bits: int, count: int) -> Unsigned:
    """The first `count` codes of each row of words int32 (n, word_count(count, bits)), uint8 (n, count)."""
    n = len(words)
    raw = np.ascontiguousarray(words, "<i4").view(np.uint8).reshape(n, -1)
    eights = -(-count // 8)
    wide = np.zeros((n, eights, 8), np.uint8)  # `bits` bytes of eight codes, then zeros
    whole = min(raw.shape[1] // bits, eights)
    wide[:, :whole, :bits] = raw[:, : whole * bits].reshape(n, whole, bits)
    if whole < eights:
        rest = raw[:, whole * bits :]
        wide[:, whole, : rest.shape[1]] = rest
    stream = wide.view("<u8")[:, :, 0]
    codes = np.empty((n, eights, 8), np.uint8)
    for place in range(8):
        codes[:, :, place] = stream >> np.uint64(bits * place) & np.uint64((1 << bits) - 1)
    return codes.reshape(n, -1)[:, :count]
