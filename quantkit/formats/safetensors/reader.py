"""The bounded safetensors reader: header facts only, every one checked before it is believed.

    u64 N   N bytes of JSON   tensor data to the end of the file

The JSON maps each name to {"dtype", "shape", "data_offsets": [start, stop]} with offsets counted from the data, and
"__metadata__" to strings. As strict as the safetensors package (0.8): the tensors cover the data without gap or
overlap. Stricter where that package is lenient: a name may occur once, has at most 512 bytes, is printable; rank is
at most 8; a tensor has exactly the three fields; the header is at most 64 MB (100 MB there).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from quantkit.errors import InputError
from quantkit.records import record
from quantkit.untrusted import InputFile, encodable, open_input, parse_json_object, shown, unique_pairs

MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 200_000
MAX_NAME_BYTES = 512
MAX_RANK = 8
VALUES_PER_TENSOR = 14  # commas and opening brackets of a tensor of the largest rank
MAX_METADATA_VALUES = 1 << 20  # commas in free text count

METADATA = "__metadata__"
FIELDS = frozenset({"dtype", "shape", "data_offsets"})

# Bits of one element of every dtype that the format defines (safetensors 0.8, enum Dtype).
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@record(slots=True)
class SafetensorsEntry:
    """A stored tensor: its bytes are [start, stop) of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@record
class SafetensorsFile:
    """A checked header. `tensors` are in the order of their data, `metadata` is free text of the writer."""

    path: Path
    tensors: Mapping[str, SafetensorsEntry]
    metadata: Mapping[str, str]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Parse the header of a safetensors file. Raises InputError naming the tensor for anything inconsistent."""
    source = open_input(path)
    try:
        return parse_safetensors(source)
    finally:
        source.close()


def parse_safetensors(source: InputFile) -> SafetensorsFile:
    """Parse the header of an open safetensors file, as `read_safetensors` does.

    The largest header allowed takes about 2 s and 300 MB.
    """
    if source.nbytes < 8:
        _fail(source, f"{source.nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(source.read(0, 8).tobytes(), "little")
    if length > source.nbytes - 8:
        _fail(source, f"claims a header of {length:,} bytes, the file has {source.nbytes:,}")
    if length > MAX_HEADER_BYTES:
        _fail(source, f"claims a header of {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read")
    raw = source.read(8, 8 + length).tobytes()
    claimed = raw.count(b'"data_offsets"')
    if claimed > MAX_TENSORS:
        _fail(source, f"claims {claimed:,} tensors, at most {MAX_TENSORS:,} are read")
    values = VALUES_PER_TENSOR * claimed + MAX_METADATA_VALUES
    header = parse_json_object(raw, source.path, values=values, pairs=unique_pairs)
    metadata = _metadata(source, header.pop(METADATA, {}))
    start = 8 + length
    entries = {name: _entry(source, name, value, start) for name, value in header.items()}
    return SafetensorsFile(source.path, _in_order(source, entries, start), metadata)


def _fail(source: InputFile, why: str, *, tensor: str | None = None) -> NoReturn:
    raise InputError(
        f"{shown(source.path)}: {why}",
        path=str(source.path),
        tensor=tensor,
        hint="the file is damaged or hostile: fetch it again from a source you trust",
    )


def _metadata(source: InputFile, found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        _fail(source, f"{METADATA} is not an object of strings")
    if not all(encodable(text) for pair in found.items() for text in pair):
        _fail(source, f"{METADATA} is not Unicode text (a lone surrogate)")
    return found


def _entry(source: InputFile, name: str, found: Any, start: int) -> SafetensorsEntry:
    """Check one tensor's fields against each other and against the size of the file."""
    if not name or not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        _fail(
            source, f'tensor name "{shown(name)}" is empty, not printable, or above {MAX_NAME_BYTES} bytes', tensor=name
        )
    if not isinstance(found, dict) or found.keys() != FIELDS:
        _fail(source, f'tensor "{name}" does not have exactly the fields dtype, shape and data_offsets', tensor=name)
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        _fail(source, f'tensor "{name}" has unknown dtype "{shown(str(dtype))}"', tensor=name)
    if not _are_sizes(shape) or len(shape) > MAX_RANK or prod(max(size, 1) for size in shape) >= 1 << 63:
        _fail(source, f'tensor "{name}" has the impossible shape {shown(str(shape))}', tensor=name)
    if not _are_sizes(offsets) or len(offsets) != 2:
        _fail(source, f'tensor "{name}" has data_offsets {shown(str(offsets))}, expected [start, stop]', tensor=name)
    if 8 * (offsets[1] - offsets[0]) != prod(shape) * bits:
        what = f"{offsets[1] - offsets[0]:,} bytes of data, {dtype} {shape} takes {prod(shape) * bits / 8:,.10g}"
        _fail(source, f'tensor "{name}" has {what}', tensor=name)
    if start + offsets[1] > source.nbytes:
        _fail(source, f'tensor "{name}" ends at byte {start + offsets[1]:,} of {source.nbytes:,}', tensor=name)
    return SafetensorsEntry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _in_order(source: InputFile, entries: dict[str, SafetensorsEntry], start: int) -> dict[str, SafetensorsEntry]:
    """The tensors in the order of their data, which must follow one another from `start` to the end of the file."""
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    expected = start
    for name, entry in ordered.items():
        if entry.start != expected:
            why = "overlaps the one before" if entry.start < expected else "leaves a gap"
            _fail(
                source, f'tensor "{name}" begins at byte {entry.start:,}, expected {expected:,}: it {why}', tensor=name
            )
        expected = entry.stop
    if expected != source.nbytes:
        _fail(source, f"{source.nbytes - expected:,} bytes follow the last tensor")
    return ordered
