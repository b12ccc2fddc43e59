"""The types of all tensors as a picture: a row for each block, a column for each kind, a colour and letter a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantkit.records import record
from quantkit.report.html.markup import MAX_NAME, Markup, figure, name, picture, table, tag, visible
from quantkit.report.html.style import SWATCHES
from quantkit.report.kinds import by_type
from quantkit.report.text import size
from quantkit.units import counted

CELL, ROW, HEAD, SIDE = 24.0, 13.0, 92.0, 34.0
MAX_ROWS, MAX_COLUMNS, MAX_BELOW = 128, 20, 32  # of a picture; the table has more of them
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIXED = "+"


@record
class Key:
    """The sign of a type: a letter, and the number of a colour."""

    letter: str
    colour: int


def keys_of(storage: Sequence[Mapping[str, Any]]) -> dict[str, Key]:
    """A letter and a colour for every type, those with few bits first; beyond 26 letters come again in pairs."""
    found = by_type(storage)
    order = sorted(found, key=lambda row: (8 * row[3] / max(row[2], 1), row[0]))
    return {
        row[0]: Key((LETTERS[at // 26 - 1] if at >= 26 else "") + LETTERS[at % 26], at % len(SWATCHES))
        for at, row in enumerate(order[: 26 * 27])
    }


def runs(blocks: Sequence[int]) -> str:
    """Numbers in words: [0, 1, 2, 5] -> "0-2, 5"."""
    found: list[list[int]] = []
    for block in blocks:
        if found and block == found[-1][1] + 1:
            found[-1][1] = block
        else:
            found.append([block, block])
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in found)


def type_map(storage: Sequence[Mapping[str, Any]], rows_shown: int, *, drawn: bool = True) -> Markup:
    """Picture, legend, and the same as a table of at most `rows_shown` rows."""
    keys = keys_of(storage)
    legend = [
        tag("li", _sign(keys[kind]), " ", name(kind), f" {8 * nbytes / max(weights, 1):.2f} bits, {size(nbytes)}")
        for kind, _, weights, nbytes in by_type(storage)[:64]
        if kind in keys
    ]
    rows = [
        (name(each["kind"]), name(each["type"]), runs(each["blocks"]) or "outside", f"{each['tensors']:,}",
         size(each["bytes"]))
        for each in storage[:rows_shown]
    ]  # fmt: skip
    if len(storage) > rows_shown:
        rows.append((name(f"{len(storage) - rows_shown:,} more"), name(""), "", "", ""))
    words = table(("kind", "type", "blocks", "tensors", "size"), rows, "The type of every tensor, in words", 2)
    shown = [_picture(storage, keys), tag("ul", *legend, class_="legend")] if drawn else []
    return tag("div", *shown, tag("details", tag("summary", "the type of every tensor as a table"), words))


def _sign(key: Key) -> Markup:
    box = tag("rect", class_=f"s{key.colour}", x="0", y="0", width="20", height="14")
    letter = tag("text", key.letter, class_="cell", x="10", y="10.5")
    return tag("svg", box, letter, viewBox="0 0 20 14", class_="key", role="img", aria_label=f"type {key.letter}")


def _picture(storage: Sequence[Mapping[str, Any]], keys: Mapping[str, Key]) -> Markup:
    every = list(dict.fromkeys(each["kind"] for each in storage if each["blocks"]))
    numbers = sorted({block for each in storage for block in each["blocks"]})
    columns, blocks = every[:MAX_COLUMNS], numbers[:MAX_ROWS]
    left_out = len(every) - len(columns) + len(numbers) - len(blocks)
    cells: dict[tuple[str, int], dict[str, None]] = {}
    outside: dict[str, dict[str, None]] = {}
    last = blocks[-1] if blocks else -1
    for each in storage:
        if not each["blocks"] and (each["kind"] in outside or len(outside) < MAX_BELOW):
            outside.setdefault(each["kind"], {})[each["type"]] = None
        for block in each["blocks"] if each["kind"] in columns else ():
            if block <= last:
                cells.setdefault((each["kind"], block), {})[each["type"]] = None
    parts: list[Markup] = []
    for at, kind in enumerate(columns):
        x = SIDE + at * CELL + CELL / 2
        turn = f"rotate(-60 {x:g} {HEAD - 6:g})"
        parts.append(tag("text", _short(kind), class_="small", x=f"{x:g}", y=f"{HEAD - 6:g}", transform=turn))
    for row, block in enumerate(blocks):
        y = HEAD + row * ROW
        parts.append(tag("text", str(block), class_="small end", x=f"{SIDE - 4:g}", y=f"{y + 9.5:g}"))
        for at, kind in enumerate(columns):
            if types := cells.get((kind, block)):
                parts += _cell(SIDE + at * CELL, y, list(types), keys, f"block {block}, {visible(kind)}")
    below = HEAD + len(blocks) * ROW + (6 if blocks else -HEAD + 6)
    for at, (kind, types) in enumerate(outside.items()):
        parts += _cell(SIDE, below + at * ROW, list(types), keys, visible(kind))
        parts.append(
            tag("text", visible(kind, 44), class_="small", x=f"{SIDE + CELL + 4:g}", y=f"{below + at * ROW + 9.5:g}")
        )
    width = max(SIDE + len(columns) * CELL + 46, 300.0)
    height = below + len(outside) * ROW + 6
    more = f" {counted(left_out, 'row')} and columns are in the table alone." if left_out else ""
    says = (
        f"The type of every tensor: {counted(len(blocks), 'block')} "
        f"by {len(columns)} kinds, and {len(outside)} outside blocks."
    )
    caption = f"A row for each block, a column for each kind of tensor.{more} Below: tensors outside blocks."
    return figure(picture(width, height, f"{says} The table below says the same in words.", *parts), caption)


def _short(kind: str) -> str:
    """The end of a name, where kinds differ."""
    text = visible(kind, MAX_NAME)
    return text if len(text) <= 18 else f"…{text[-17:]}"


def _cell(x: float, y: float, types: list[str], keys: Mapping[str, Key], where: str) -> list[Markup]:
    key = keys.get(types[0], Key("?", 0))
    letter = key.letter if len(types) == 1 else f"{key.letter}{MIXED}"
    said = tag("title", f"{where}: {', '.join(visible(each, 60) for each in types[:8])}")
    box = tag("rect", said, class_=f"s{key.colour}", x=f"{x + 0.5:g}", y=f"{y + 0.5:g}", width=f"{CELL - 1:g}",
              height=f"{ROW - 1:g}")  # fmt: skip
    return [box, tag("text", letter, class_="cell", x=f"{x + CELL / 2:g}", y=f"{y + 9.5:g}")]
