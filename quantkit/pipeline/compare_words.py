"""A comparison of two models as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantkit.evaluation.comparison import Difference, summed
from quantkit.pipeline.columns import NARROW, WIDE, beside, cut, figure, one_line, wrapped
from quantkit.pipeline.compare import Compared, Model
from quantkit.report.text import size, table
from quantkit.units import counted

FURTHEST, KEYS, ALONE = 10, 20, 10  # that are listed


def comparison_lines(found: Compared, width: int) -> list[str]:
    """What was found as lines of at most `width` columns (60 to 120)."""
    width = min(max(width, NARROW), WIDE)
    return [cut(line, width) for line in _lines(found, width)]


def _lines(found: Compared, width: int) -> Iterator[str]:
    yield f"a  {_model(found.a)}"
    yield f"b  {_model(found.b)}"
    yield ""
    yield from _types(found, width)
    yield ""
    equal = sum(each.equal for each in found.both)
    yield from wrapped(f"tensors: {len(found.both):,} of both, {equal:,} equal, {len(found.differing):,} differ", width)
    yield from _pairs(found, width)
    for side, names in (("a", [t.name for t in found.only_a]), ("b", [t.name for t in found.only_b])):
        if names:
            yield f"only in {side}: {len(names):,}"
            yield from (f"  {one_line(name)}" for name in names[:ALONE])
            yield from _more(len(names) - ALONE)
    yield from _furthest([each for each in found.differing if each.a.type == each.b.type or each.relative != 0], width)
    if found.metadata:
        yield ""
        yield f"metadata: {len(found.metadata):,} keys differ"
        yield from _keys(found, width)
    yield ""
    said = {None: found.tokenizer_unknown, "": "the same ids"}.get(found.tokenizer, f"DIFFER: {found.tokenizer}")
    yield from wrapped(f"tokenizers: {one_line(said)}", width, 2)
    yield from _texts(found, width)
    yield f"equal: {'yes' if found.equal else 'no'}"


def _model(model: Model) -> str:
    return f"{one_line(model.name)}  {model.kind}  {size(model.nbytes)} ({model.nbytes:,} bytes)"


def _types(found: Compared, width: int) -> list[str]:
    """Types of both, with tensors and bytes."""
    sides = [{row["type"]: row for row in model.as_json()["types"]} for model in (found.a, found.b)]
    names = list(dict.fromkeys((*sides[0], *sides[1])))

    def cell(side: dict[str, dict[str, int]], name: str) -> tuple[str, str]:
        row = side.get(name)
        return (f"{row['tensors']:,}", size(row["bytes"])) if row else ("-", "-")

    rows = [(*cell(sides[0], name), *cell(sides[1], name)) for name in names]
    right = table(rows, ("a tensors", "a size", "b tensors", "b size"))
    return beside(["type", *map(one_line, names)], right, width)


def _pairs(found: Compared, width: int) -> list[str]:
    rows = summed(found.both)
    if not rows:
        return []
    cells = [
        (
            f"{row['tensors']:,}",
            f"{row['equal']:,}",
            "-" if row["relative_error"] is None else figure(row["relative_error"]),
        )
        for row in rows
    ]
    room = (width - 34) // 2
    names = [f"  {cut(one_line(row['a']), room)} | {cut(one_line(row['b']), room)}" for row in rows]
    return beside(["  stored in a | in b", *names], table(cells, ("tensors", "equal", "error")), width)


def _furthest(found: Sequence[Difference], width: int) -> Iterator[str]:
    shown = found[:FURTHEST]
    if not shown:
        return
    yield ""
    yield "furthest apart (squared error relative to b)"
    cells = [("-" if each.relative is None else figure(each.relative), _how(each)) for each in shown]
    yield from beside(["tensor", *(one_line(each.name) for each in shown)], table(cells, ("error", "a | b")), width)
    yield from _more(len(found) - len(shown))


def _how(each: Difference) -> str:
    if each.a.info.shape != each.b.info.shape:
        return f"{list(each.a.info.shape)} | {list(each.b.info.shape)}"
    return f"{cut(one_line(each.a.type), 12)} | {cut(one_line(each.b.type), 12)}"


def _texts(found: Compared, width: int) -> Iterator[str]:
    """What both write behind each prompt, below each other; a bar stands where they part."""
    for each in found.text:
        yield ""
        yield from wrapped(f"prompt: {one_line(each.prompt)}", width, 2)
        if each.equal:
            yield from wrapped(f"  both: {one_line(each.a)}", width, 8)
            continue
        common = _common(each.a, each.b)
        for side, text in (("a", each.a), ("b", each.b)):
            yield from wrapped(f"  {side}: {one_line(text[:common])}❙{one_line(text[common:])}", width, 5)
        yield f"  the same for {each.same} of {counted(max(each.tokens), 'token')}"
    if found.text:
        yield ""


def _common(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    shorter = min(len(a), len(b))
    return next((at for at in range(shorter) if a[at] != b[at]), shorter)


def _keys(found: Compared, width: int) -> Iterator[str]:
    for key in found.metadata[:KEYS]:
        yield f"  {one_line(key.key)}"
        for side, value in (("a", key.a), ("b", key.b)):
            yield f"    {side}  {'(none)' if value is None else one_line(value)}"
    yield from _more(len(found.metadata) - KEYS)


def _more(count: int) -> list[str]:
    return [f"  and {count:,} more (--json has all)"] if count > 0 else []
