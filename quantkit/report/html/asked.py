"""What models made of prompts and of tasks of a harness, as parts of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantkit.report.html.markup import MAX_TEXT, Markup, digits, estimate, join, name, table, tag, visible
from quantkit.units import counted

Record = Mapping[str, Any]


def prompts(found: Record, answers: int, rows: int) -> Markup:
    """A set of prompts: its figures, its kinds, and the worst answers, both continuations beside each other."""
    said = f"{counted(found['count'], 'prompt')} of "
    of = tag(
        "p", said, name(found["set"]), " (", tag("code", visible(found["sha256"][:16])), f"), {found['templated']:,} ",
        f"of them by the chat template, up to {counted(found['tokens'], 'token')} each.",
    )  # fmt: skip
    by_id = {answer["id"]: answer for answer in found["answers"]}
    worst = [by_id[each] for each in found["worst"][:answers] if each in by_id]
    shown = [tag("h4", "Worst prompts"), *map(_answer, worst)] if worst else []
    return join([tag("h3", "Prompts"), of, _figures(found), _kinds(found, rows), *shown])


def _figures(found: Record) -> Markup:
    rows: list[tuple[object, ...]] = [
        ("identical", f"{estimate(found['identical'], 100)} %", "100 %"),
        ("equal tokens before the first that differs", f"{estimate(found['divergence'], 100)} %", "100 %"),
        ("KL divergence (nats)", estimate(found["kl"]), "0"),
    ]
    rows += [
        (name(key), f"{estimate(rate, 100)} % of {rate['prompts']:,}", f"{100 * rate['reference']:.2f} %")
        for key, rate in list(found["rates"].items())[:16]
        if rate is not None
    ]
    rows.append(("lost: the original passes, this does not", f"{found['lost']:,}", "0"))
    rows.append(("gained: the other way round", f"{found['gained']:,}", "0"))
    return table(("figure", "artifact", "original"), rows, "Continuations of prompts", 2)


def _kinds(found: Record, most: int) -> Markup:
    rows = [
        (name(one["kind"]), f"{one['prompts']:,}", f"{one['identical']:,}", f"{100 * one['divergence']:.1f}",
         digits(one["kl"]), f"{one['passed']:,} of {one['expecting']:,}",
         f"{one['reference_passed']:,} of {one['expecting']:,}")
        for one in found["kinds"][:most]
    ]  # fmt: skip
    heads = ("kind", "prompts", "identical", "equal tokens (%)", "KL (nats)", "passed", "the original passed")
    return table(heads, rows, "Prompts by kind", 6)


def runs(history: Sequence[Record], rows: int) -> Markup:
    """Figures of prompts run after run, the latest first, and what became of them on the same set; nothing without."""
    asked = sorted((line for line in history if line.get("prompts")), key=lambda line: line["time"])
    if not asked:
        return Markup()
    cells = [
        (visible(line["time"][:16].replace("T", " ")), name(line["name"]), name(line["prompts"]["set"]),
         f"{estimate(line['prompts']['identical'], 100)} %", f"{estimate(line['prompts']['divergence'], 100)} %",
         _shares(line["prompts"]["rates"]), f"{line['prompts']['lost']:,}")
        for line in reversed(asked[-rows:])
    ]  # fmt: skip
    heads = ("time", "artifact", "set", "identical", "equal tokens", "held", "lost")
    latest = asked[-1]
    same = [line for line in asked if all(_same(line, latest))]
    parts = [tag("h3", "Prompts")]
    if len(same) > 1:
        first, last = same[0]["prompts"], latest["prompts"]
        said = f"{visible(latest['name'], 60)}, {visible(last['set'], 60)}: {_shares(first['rates'])} then, "
        parts.append(tag("p", f"{said}{_shares(last['rates'])} now, over {counted(len(same), 'run')}."))
    return join([*parts, table(heads, cells, "Prompts of the runs, the latest first", 3)])


def _same(one: Record, other: Record) -> Iterator[bool]:
    """Whether two lines are of one artifact, one original and one set of prompts."""
    yield from (one[key] == other[key] for key in ("name", "reference"))
    yield one["prompts"]["sha256"] == other["prompts"]["sha256"]


def _shares(rates: Mapping[str, Record | None]) -> str:
    """ "json_valid 98.3 % (original 99.2 %)", of every rate that there is."""
    found = [
        f"{visible(key, 40)} {100 * rate['value']:.1f} % (original {100 * rate['reference']:.1f} %)"
        for key, rate in rates.items()
        if rate
    ]
    return ", ".join(found) or "nothing was expected"


def _answer(one: Record) -> Markup:
    says = [name(one["id"]), f": KL {digits(one['kl'])} nats; "]
    says.append(
        "identical"
        if one["identical"]
        else f"{counted(one['equal_tokens'], 'token')} equal before the first difference"
    )
    if one["reference_passed"] and one["passed"] is False:
        says.append(tag("span", "; lost: the original passes", class_="bad"))
    sides = [
        tag("div", tag("h4", title), tag("p", visible(text, MAX_TEXT), class_="text", dir="auto"))
        for title, text in (("the original", one["reference_text"]), ("the artifact", one["text"]))
    ]
    asked = tag("p", visible(one["prompt"][-300:], MAX_TEXT), class_="text", dir="auto")
    return tag("article", tag("p", tag("small", *says)), asked, tag("div", *sides, class_="sides"))


def tasks(found: list[Record], rows: int) -> Markup:
    """What a harness measured, of the artifact and of the original."""
    cells = [
        (name(one["task"]), name(one["metric"]), f"{one['documents']:,}", _pm(one["value"], one["standard_error"]),
         _pm(one["reference"], one["reference_standard_error"]))
        for one in found[:rows]
    ]  # fmt: skip
    heads = ("task", "metric", "documents", "artifact", "original")
    return join([tag("h3", "Tasks"), table(heads, cells, "Tasks of a harness; ± is its standard error", 3)])


def _pm(value: float, error: float | None) -> str:
    return estimate({"value": value, "standard_error": error})


def engine(found: Record) -> Iterator[tuple[str, str]]:
    """The engine whose predictions the figures are of, as a row of figures."""
    what = f"{visible(found['name'], 40)} {visible(found['version'], 40)}"
    yield "engine", f"{what}; KL {estimate(found['own_kl'])} nats from our own run of the same weights"
