"""Facts of the GGUF format and what a parsed file is. See `quantkit.formats.gguf.file` for reading and writing."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from quantkit.metadata import KeyValue, Kind
from quantkit.qtypes import base
from quantkit.records import record
from quantkit.untrusted import Stamp

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES = 63  # GGML_MAX_NAME counts the final NUL

# enum gguf_type (gguf.h): the number of each kind of value. 9 is an array of any other kind.
ARRAY = 9
KIND_NUMBERS: dict[Kind, int] = {
    "u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "string": 8,
    "u64": 10, "i64": 11, "f64": 12,
}  # fmt: skip
KINDS = {number: kind for kind, number in KIND_NUMBERS.items()}
assert set(KIND_NUMBERS) == set(get_args(Kind))

# Format characters of `struct` (and of `array`) for every kind of fixed size.
STRUCT_CODES: dict[Kind, str] = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?",
    "u64": "Q", "i64": "q", "f64": "d",
}  # fmt: skip


@record
class GGMLType:
    """A tensor type of ggml: `block` weights of a row take `nbytes` bytes. `name` is quantkit's where it has one."""

    name: str
    block: int
    nbytes: int


# enum ggml_type and the sizes of its block structs (ggml.h, ggml-common.h), types quantkit cannot decode included:
# the size of a tensor has to be known to find the next one.
GGML_TYPES = {
    0: GGMLType("f32", 1, 4), 1: GGMLType("f16", 1, 2), 30: GGMLType("bf16", 1, 2), 28: GGMLType("f64", 1, 8),
    24: GGMLType("i8", 1, 1), 25: GGMLType("i16", 1, 2), 26: GGMLType("i32", 1, 4), 27: GGMLType("i64", 1, 8),
    2: GGMLType("q4_0", 32, 18), 3: GGMLType("q4_1", 32, 20), 6: GGMLType("q5_0", 32, 22),
    7: GGMLType("q5_1", 32, 24), 8: GGMLType("q8_0", 32, 34), 9: GGMLType("q8_1", 32, 36),
    10: GGMLType("q2_k", 256, 84), 11: GGMLType("q3_k", 256, 110), 12: GGMLType("q4_k", 256, 144),
    13: GGMLType("q5_k", 256, 176), 14: GGMLType("q6_k", 256, 210), 15: GGMLType("q8_k", 256, 292),
    16: GGMLType("iq2_xxs", 256, 66), 17: GGMLType("iq2_xs", 256, 74), 22: GGMLType("iq2_s", 256, 82),
    18: GGMLType("iq3_xxs", 256, 98), 21: GGMLType("iq3_s", 256, 110), 19: GGMLType("iq1_s", 256, 50),
    29: GGMLType("iq1_m", 256, 56), 20: GGMLType("iq4_nl", 32, 18), 23: GGMLType("iq4_xs", 256, 136),
    34: GGMLType("tq1_0", 256, 54), 35: GGMLType("tq2_0", 256, 66), 39: GGMLType("mxfp4", 32, 17),
    40: GGMLType("nvfp4", 64, 36), 41: GGMLType("q1_0", 128, 18), 42: GGMLType("q2_0", 64, 18),
}  # fmt: skip


def ggml_type(number: int) -> GGMLType | None:
    """The type of this number: of the table, or one that quantkit alone knows; None where it is unknown."""
    if number in GGML_TYPES or number in REMOVED_TYPES:
        return GGML_TYPES.get(number)
    found = next((qtype for qtype in map(base.get, base.names()) if qtype.gguf == number), None)
    return None if found is None else GGMLType(found.name, found.block, found.nbytes)


# Numbers that once were types (q4_2, q4_3, and layouts for one processor); files with them must be made anew.
REMOVED_TYPES = frozenset({4, 5, 31, 32, 33, 36, 37, 38})


@record
class GGUFTensor:
    """A stored tensor. `shape` is in checkpoint order (row length last), `offset` absolute in the file.

    `qtype` is the lower-case name of its type (a quantkit qtype, or one of GGML_TYPES that quantkit cannot decode),
    `type_id` its number; `nbytes` excludes padding.
    """

    name: str
    qtype: str
    type_id: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@record
class GGUFFile:
    """What the header of a GGUF file says, checked against the size of the file.

    `nbytes` is that size and `data_start` where tensor data begins. Array values of `metadata` are `array.array`
    for numbers and tuples for strings and bools; a string that is not UTF-8 stays bytes.
    """

    path: Path
    version: int
    metadata: tuple[KeyValue, ...]
    tensors: tuple[GGUFTensor, ...]
    alignment: int
    data_start: int
    stamp: Stamp

    @property
    def nbytes(self) -> int:
        return self.stamp.nbytes

    @property
    def data_end(self) -> int:
        """Where the file should end: the last tensor's data, padded to the alignment."""
        if not self.tensors:
            return self.data_start
        return padded(self.tensors[-1].offset + self.tensors[-1].nbytes, self.alignment)

    def get(self, key: str) -> KeyValue | None:
        """The metadata entry called `key`, if there is one."""
        return next((entry for entry in self.metadata if entry.key == key), None)


def padded(nbytes: int, alignment: int) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment
