"""Diagrams of blocks, from the types themselves: every bit of a block is flipped, and what it changes is what it holds.

A line `{{ block q4_k }}` of a page becomes the picture of that type, and its numbers as a table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from importlib import import_module

import numpy as np
from words import code, table

from quantkit.qtypes import base

PLACE = re.compile(r"^\{\{ block (\w+) \}\}$", re.MULTILINE)
CODES = "codes"
WORDS = {
    "d": "d, the block's unit: a 16-bit float",
    "dmin": "dmin, the unit of minima: a 16-bit float",
    "sc": "sc, a scale in units of d",
    "m": "m, a minimum in units of dmin",
    CODES: "q, the code of a weight",
}
WIDTH, LEFT, BAR, LEAST = 760.0, 10.0, 54.0, 92.0  # pixels; LEAST is the width of the smallest field


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of a block that hold the same: field -> (how many bits of it, of how many numbers)."""

    start: int
    stop: int
    holds: dict[str, tuple[int, int]]
    planes: str  # which bits of codes, "" where it holds none

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """What a block is made of."""

    qtype: base.QuantType
    pieces: tuple[Piece, ...]
    groups: int
    formula: str
    first: str  # which weights the first byte of codes holds


def read_block(name: str) -> Block:
    """Find out what every bit of a block of this type is."""
    qtype = base.get(name)
    changes = _changes(qtype)
    keys = [_key(changes[8 * at : 8 * at + 8]) for at in range(qtype.nbytes)]
    pieces = []
    start = 0
    for at in range(1, qtype.nbytes + 1):
        if at == qtype.nbytes or keys[at] != keys[start]:
            pieces.append(_piece(start, at, changes))
            start = at
    grid = qtype.unpack(np.zeros((1, qtype.nbytes), np.uint8))[1]
    formula = re.search(r"value = (.+)$", import_module(f"quantkit.qtypes.{name}").__doc__ or "", re.MULTILINE)
    assert formula is not None, name
    return Block(qtype, tuple(pieces), grid.scale.shape[1], formula[1], _first_codes(pieces, changes))


Change = tuple[str, int, int]  # field, number of the element, bit of it


def _changes(qtype: base.QuantType) -> list[Change]:
    """What each bit of a block changes, lowest bit of the first byte first."""
    blank = np.zeros((1, qtype.nbytes), np.uint8)
    flipped = np.zeros((8 * qtype.nbytes, qtype.nbytes), np.uint8)
    bits = np.arange(8 * qtype.nbytes)
    flipped[bits, bits // 8] = 1 << bits % 8
    found: list[list[Change]] = [[] for _ in bits]
    (codes, grid), (zero_codes, zero_grid) = qtype.unpack(flipped), qtype.unpack(blank)
    fields = {CODES: (codes, zero_codes)}
    fields |= {name: (values, zero_grid.fields[name]) for name, values in grid.fields.items()}
    for name, (values, zero) in fields.items():
        if values.dtype.kind == "f":
            values, zero = values.view(np.uint16), zero.view(np.uint16)  # a sign of zero counts, too
        values, zero = values.reshape(len(bits), -1).astype(np.int32), zero.reshape(1, -1).astype(np.int32)
        for bit, at in np.argwhere(values != zero):
            found[bit].append((name, int(at), int(abs(values[bit, at] - zero[0, at])).bit_length() - 1))
    single = [each[0] for each in found if len(each) == 1]
    assert len(single) == len(found), f"{qtype.name}: a bit holds nothing, or two things"
    return single


def _key(changes: list[Change]) -> str:
    """Bytes that belong to one field of the C struct: a unit, scales and minima together, a plane of codes."""
    names = {name for name, _, _ in changes}
    if names == {CODES}:
        return f"{CODES} {_planes(changes)}"
    return "scales" if names <= {"sc", "m"} else " ".join(sorted(names))


def _planes(changes: list[Change]) -> str:
    bits = sorted({bit for name, _, bit in changes if name == CODES})
    return f"{bits[0]} to {bits[-1]}" if len(bits) > 1 else "".join(map(str, bits))


def _piece(start: int, stop: int, changes: list[Change]) -> Piece:
    inside = changes[8 * start : 8 * stop]
    bits: defaultdict[str, int] = defaultdict(int)
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for name, at, _ in inside:
        bits[name] += 1
        numbers[name].add(at)
    holds = {name: (bits[name], len(numbers[name]) if name not in ("d", "dmin") else 1) for name in bits}
    return Piece(start, stop, holds, _planes(inside))


def _first_codes(pieces: list[Piece], changes: list[Change]) -> str:
    start = next(piece.start for piece in pieces if piece.planes.startswith("0"))
    held: dict[int, list[int]] = {}
    for bit, (_, at, _) in enumerate(changes[8 * start : 8 * start + 8]):
        held.setdefault(at, []).append(bit)
    parts = [f"weight {at} in bits {bits[0]} to {bits[-1]}" for at, bits in held.items()]
    return f"Byte {start} holds {' and '.join(parts)}"


# --- pictures --------------------------------------------------------------------------------------------------------


def put_blocks(markdown: str) -> str:
    """A page with its places filled in."""
    return PLACE.sub(lambda found: draw(read_block(found[1])), markdown)


def draw(block: Block) -> str:
    """The picture of a block, its formula, and a table of its fields, as Markdown."""
    qtype = block.qtype
    bits = 8 * qtype.nbytes
    rows = [
        (f"{piece.start} to {piece.stop - 1}", _said(piece, name), str(count), str(have // count), str(have))
        for piece in block.pieces
        for name, (have, count) in piece.holds.items()
    ]
    rows.append(("all", "", "", "", str(bits)))
    what = f"{bits} bits for {qtype.block} weights: {qtype.bits_per_weight:g} bits per weight"
    caption = f"{qtype.name.upper()}, {qtype.nbytes} bytes: {what}"
    picture = f'<figure class="block">{_svg(block, caption)}<figcaption>{caption}</figcaption></figure>\n\n'
    text = f"A weight is `{block.formula}`. {block.first}.\n\n"
    return picture + text + table(("bytes", "hold", "numbers", "bits each", "bits"), rows, numbers=3)


def _said(piece: Piece, name: str) -> str:
    symbol, _, words = WORDS[name].partition(", ")
    part = name == CODES and piece.holds[CODES][0] // piece.holds[CODES][1] < 4
    return f"{code(symbol)}, {words}" + (f": bits {piece.planes} of it" if part else "")


def _svg(block: Block, caption: str) -> str:
    """Bytes as a bar of fields above, the groups of weights that share a scale below. Widths are not to scale."""
    qtype = block.qtype
    spare = WIDTH - 2 * LEFT - LEAST * len(block.pieces)
    at, parts = LEFT, []
    for piece in block.pieces:
        width = LEAST + spare * piece.nbytes / qtype.nbytes
        kind = "codes" if CODES in piece.holds else "unit" if "d" in piece.holds or "dmin" in piece.holds else "scales"
        lines = [_name(piece), f"{piece.nbytes} bytes"]
        several = len(piece.holds) > 1
        for name, (have, count) in piece.holds.items():
            lines.append((f"{name}: " if several else "") + f"{count} x {have // count} bit")
        parts.append(_box(at, 10, width, BAR + 28, f"field {kind}", lines))
        parts.append(f'<text class="at" x="{at:.1f}" y="{BAR + 54:.0f}">{piece.start}</text>')
        at += width
    parts.append(f'<text class="at" x="{at:.1f}" y="{BAR + 54:.0f}" text-anchor="end">{qtype.nbytes}</text>')
    width = (WIDTH - 2 * LEFT) / block.groups
    size = qtype.block // block.groups
    for group in range(block.groups):
        lines = [str(size)] if block.groups > 8 else [f"{size} weights"]
        parts.append(_box(LEFT + group * width, BAR + 66, width, 30, "group", lines))
    shared = "one scale" + (
        " and one minimum" if any("m" in p.holds or "dmin" in p.holds for p in block.pieces) else ""
    )
    words = f"{block.groups} group{'s' if block.groups > 1 else ''} of {size} weights, {shared} each"
    parts.append(f'<text class="at" x="{LEFT:.0f}" y="{BAR + 114:.0f}">{words}</text>')
    label = f'role="img" aria-label="{escape(caption)}"'
    return f'<svg viewBox="0 0 {WIDTH:.0f} {BAR + 122:.0f}" {label}>{"".join(parts)}</svg>'


def _name(piece: Piece) -> str:
    if CODES in piece.holds:
        each = piece.holds[CODES][0] // piece.holds[CODES][1]
        low = piece.planes.startswith("0")
        return "codes" if low and each > 2 else f"codes, bits {piece.planes}"
    return ", ".join(piece.holds)


def _box(x: float, y: float, width: float, height: float, kind: str, lines: list[str]) -> str:
    middle = x + width / 2
    top = y + height / 2 - 7 * (len(lines) - 1) + 4
    text = "".join(
        f'<text x="{middle:.1f}" y="{top + 14 * number:.1f}" text-anchor="middle"'
        f"{' class=name' if not number and len(lines) > 1 else ''}>{escape(line)}</text>"
        for number, line in enumerate(lines)
    )
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>{text}'
