"""What a quantization type is: the bytes of a block, and the grid of values those bytes can hold.

A type is one module in this package that defines `TYPE`; the registry finds it by file name. Methods see a type
only through its `Grid` (`fit`, round to codes, `pack`), so that one method serves every type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantkit.discovery import defined, modules, require_known
from quantkit.errors import UnsupportedError
from quantkit.records import record
from quantkit.tensors import F32, U8

if TYPE_CHECKING:
    from quantkit.qtypes.search.units import Units
    from quantkit.qtypes.search.vectors import Vectors

Codes = NDArray[np.int16]
TOOLS = frozenset({"base", "calls", "compiling", "floats", "kept", "llvm", "machine_code", "target"})
TABLES = frozenset({"i32", "i64"})  # of tensors that are no weights


@record
class Grid:
    """The values that n blocks can represent, already rounded to what the bytes store.

    `scale` and `offset` are float32 (n, g): one per group of block // g weights; `offset` is None for types
    without one. A code c in qmin..qmax means scale * c + offset, or scale * levels[c] + offset where the type has
    a codebook. Codes are signed where the type is: q4_0 has -8..7. `fields` holds what `pack` needs besides the
    codes (d, dmin, sub-scales), private to the type.
    """

    scale: F32
    offset: F32 | None
    qmin: int
    qmax: int
    levels: F32 | None = None
    fields: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def values(self, codes: Codes) -> F32:
        """Decode codes (n, block) to float32 (n, block), in the exact order of operations of the reference."""
        n, block = codes.shape
        groups = self.scale.shape[1]
        level = codes.astype(np.float32) if self.levels is None else self.levels[codes]
        value = level.reshape(n, groups, block // groups)
        value *= self.scale[:, :, None]
        if self.offset is not None:
            value += self.offset[:, :, None]
        return value.reshape(n, block)


def no_codes(*_: object) -> NoReturn:
    """`fit`, `pack` and `unpack` of a float type."""
    raise UnsupportedError(
        "a float type stores the weights themselves: it has no codes to choose",
        hint="use a quantized type such as q4_k with this method",
    )


@record
class QuantType:
    """One storage type.

    `block` weights of one row become `nbytes` bytes. `gguf` is the type's number in a GGUF file, None where that
    container has no such type. `columnwise` is False where codes of neighbouring columns are chosen together.
    `uses_importance` is False for types whose encoder ignores importance weights; those that `needs_importance` are
    useless without, so that a plan refuses them (llama-quant.cpp, tensor_requires_imatrix). `code_bytes` is how many of
    a block's `nbytes` hold codes, the rest being scales and offsets; None means all of them (float types).
    `inputs` is the type to which ggml's CPU code rounds what such weights are multiplied with (type_traits_cpu,
    vec_dot_type), "" where it has none. `floor_db` is the least signal to noise ratio, in dB, that correct bytes show
    on weights of any distribution met so far: a permuted, shifted or mis-scaled tensor falls far below; 0 is that of
    zeros. `encode_ns` are nanoseconds to encode one weight on one core of a server of 2024 with AVX-512, without
    importance weights (scripts/bench_encoders.py): only for the estimate of time, machines differ by a factor. `units`
    says how the scales of a block hang together, None where nothing may change them once codes are chosen; `vectors`
    which vectors of levels a type has that is not `columnwise`, None where no method may choose them.

    encode(w, importance) -> (rows, cols // block * nbytes) uint8: the reference encoder, byte for byte.
    fit(w, importance) -> Grid over the blocks of w in row-major order, the one on which `encode` rounds.
    search(w, prices) -> Grid likewise, better than that of `fit` where a method chooses the codes and knows what each
    column costs, (cols,). None where `fit` is as good.
    pack(codes (n, block), grid) -> (n, nbytes) uint8.
    unpack(raw (n, nbytes)) -> (codes, grid), the exact inverse of pack.
    w is float32 (rows, cols) with cols a multiple of block, in any memory layout, and never changed; importance is
    float32 (cols,) or None. encode and fit raise NonFiniteError where a value or a scale becomes infinite.

    A float type (f32, f16, bf16) has blocks of one weight and no codes: fit, pack and unpack raise UnsupportedError,
    and `widen` turns its bytes (n, nbytes) into float32 (n,), exactly. It is None for all other types.
    """

    name: str
    block: int
    nbytes: int
    encode: Callable[[F32, F32 | None], U8]
    fit: Callable[[F32, F32 | None], Grid] = no_codes
    pack: Callable[[Codes, Grid], U8] = no_codes
    unpack: Callable[[U8], tuple[Codes, Grid]] = no_codes
    gguf: int | None = None
    columnwise: bool = True
    uses_importance: bool = False
    needs_importance: bool = False
    code_bytes: int | None = None
    widen: Callable[[U8], F32] | None = None
    inputs: str = ""
    floor_db: float = 0.0
    encode_ns: float = 1.0
    units: Units | None = None
    vectors: Vectors | None = None
    search: Callable[[F32, F32], Grid] | None = None

    @property
    def bits_per_weight(self) -> float:
        return self.nbytes * 8 / self.block

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights; `cols` must be a multiple of `block`."""
        assert cols % self.block == 0, (self.name, cols)
        return cols // self.block * self.nbytes

    def decode(self, raw: U8, cols: int) -> F32:
        """Bytes (rows, row_bytes) to float32 (rows, cols)."""
        blocks = raw.reshape(-1, self.nbytes)
        if self.widen is not None:
            return self.widen(blocks).reshape(-1, cols)
        codes, grid = self.unpack(blocks)
        return grid.values(codes).reshape(-1, cols)


def as_blocks(w: F32, block: int) -> F32:
    """w (rows, cols) as its blocks (n, block) in row-major order, a view where possible.

    Contiguous, aligned and read-only, because numba compiles a kernel anew for every kind of array it meets.
    """
    assert w.ndim == 2, w.shape
    assert w.shape[1] % block == 0, (w.shape, block)
    blocks = np.require(w, np.float32, ["C", "A"]).reshape(-1, block)
    blocks.flags.writeable = False
    return blocks


@cache
def names() -> tuple[str, ...]:
    """Names of all types of weights, in alphabetical order: the modules of this package, but for tools and tables."""
    return modules("quantkit.qtypes", TOOLS | TABLES)


def is_known(name: str) -> bool:
    """Whether there is a type called so, of weights or of tables."""
    return name in names() or name in TABLES


@cache
def get(name: str) -> QuantType:
    """The type called `name`. Raises UnsupportedError with the nearest name."""
    if name not in TABLES:
        require_known("quantization type", name, names())
    qtype = defined("quantkit.qtypes", name, "TYPE")
    assert isinstance(qtype, QuantType)
    return qtype
