"""What a tensor is, before and after quantization: names, shapes and slabs of rows.

A tensor of any rank is seen as a matrix of `rows` by `cols`: the last axis is the row that gets quantized, all
axes before it are rows. A vector of n elements is n rows of one column, so that a permutation of a bias is a
permutation of rows like any other.
"""

from __future__ import annotations

from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quantkit.records import record

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

# Bytes of one element for every dtype name that the safetensors format defines and quantkit can meet.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

FLOAT_DTYPES = frozenset({"F32", "F16", "BF16"})
WHOLE_DTYPES = {"I32": "<i4", "I64": "<i8"}  # of tables; numpy's names
COUNTED_DTYPES = {**WHOLE_DTYPES, "BOOL": "?"}  # of all that is no weight: masks, too
MAX_WHOLE = 1 << 24  # up to here float32 has every whole number


@record
class Coded:
    """The quantization type `qtype` has the codes and scales of a stored weight: its rows could be carried over bit for
    bit. Where it is `turned`, they are the rows of each matrix turned: it is stored (.., columns, rows). `factored`
    says that a factor of the whole matrix comes with them, `wide` that its inputs are not to be rounded to four bits.
    """

    qtype: str
    turned: bool = False
    factored: bool = False
    wide: bool = False


@record
class TensorInfo:
    """Header facts of one stored tensor.

    `shape` is in checkpoint order (rows first, row length last). `dtype` is a safetensors name ("BF16") or, for a
    tensor that is already quantized, the name of a quantkit qtype ("q4_k"). `nbytes` is its stored size.
    `stored_as` says how a weight of a quantized checkpoint is stored that is read as if it were a plain one, and
    `stored_bits` in how many bits each; `coded` which type of GGUF has the same codes and scales, if one has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    stored_as: str | None = None
    stored_bits: int | None = None
    values: tuple[float, ...] | None = None
    coded: Coded | None = None

    @property
    def cols(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1]) if len(self.shape) > 1 else prod(self.shape)

    @property
    def elements(self) -> int:
        return prod(self.shape)


class TensorRef(Protocol):
    """A tensor that can be read a slab of rows at a time, without loading the rest."""

    @property
    def info(self) -> TensorInfo: ...

    def read(self, start: int, stop: int) -> F32:
        """Return rows [start, stop) as float32, shape (stop - start, cols), decoded exactly."""
        ...

    def read_packed(self, start: int, stop: int) -> U8:
        """Return the stored bytes of rows [start, stop), uint8 (stop - start, row bytes)."""
        ...


@runtime_checkable
class CodedRef(TensorRef, Protocol):
    """A tensor whose codes are those of a quantization type: `info.coded` says which."""

    def read_coded(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as that type stores them; of a turned one the rows of its matrices as they are stored."""
        ...

    def factors(self) -> tuple[float, float]:
        """What the decoded rows are multiplied by, and the static scale of inputs: float32, 1 where there is none."""
        ...
