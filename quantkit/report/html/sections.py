"""The parts of a report, each from records whose types were checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from quantkit.records import record
from quantkit.report.html import asked
from quantkit.report.html.charts import Point, bars, curve, frontier, scatter, strip, trend
from quantkit.report.html.markup import (
    MAX_TEXT,
    MAX_TOKEN,
    Markup,
    digits,
    estimate,
    figure,
    join,
    name,
    table,
    tag,
    visible,
)
from quantkit.report.html.type_map import type_map
from quantkit.report.kinds import by_kind, by_type
from quantkit.report.text import size
from quantkit.units import counted

Record = Mapping[str, Any]
SAME_RUNS = ("name", "reference", "data", "engine")  # what runs of a trend have in common


@record
class Detail:
    """How much is shown: at most so many variants, passages of each, rows of a table, and whether maps are drawn."""

    variants: int
    passages: int
    rows: int
    maps: bool


def verdict(evaluations: Sequence[Record]) -> Markup:
    """In one sentence, whether all gates hold."""
    gates = [gate for body in evaluations for each in body["artifacts"] for gate in each["gates"]]
    if not evaluations:
        return tag("p", "Nothing was measured: this report shows sizes and types alone.", class_="verdict")
    if not gates:
        return tag("p", "No gate was asked: figures without a verdict.", class_="verdict")
    failed = [gate for gate in gates if not gate["ok"]]
    if not failed:
        many = "The gate holds." if len(gates) == 1 else f"All {len(gates)} gates hold."
        return tag("p", f"✓ {many}", class_="verdict good")
    verb = "does" if len(failed) == 1 else "do"
    return tag("p", f"✕ {len(failed)} of {len(gates)} gates {verb} not hold.", class_="verdict bad")


def measured_on(body: Record) -> Markup:
    """What was measured against what, on which text."""
    data, reference = body["data"], body["reference"]
    commit = f", commit {visible(reference['commit'], 40)}" if reference["commit"] else ""
    quantized = " It is quantized itself." if reference["quantized"] else ""
    return tag(
        "p", f"{counted(data['tokens'], 'token')} of {counted(data['documents'], 'document')} of ", name(data["name"]),
        f" in windows of {data['window']:,}, against ", name(reference["repo"] or reference["name"]), commit,
        " (", tag("code", reference["sha256"][:16]), f").{quantized}",
    )  # fmt: skip


def summary(body: Record, detail: Detail) -> Markup:
    """All artifacts of a measurement in one table."""
    heads = ("artifact", "size", "KL (nats)", "KL 99 %", "perplexity", "ratio", "same top token")
    rows = [
        (
            name(each["name"]), size(each["bytes"]), estimate(each["kl"]), digits(each["kl_quantiles"].get("99")),
            estimate(each["perplexity"]), estimate(each["perplexity_ratio"]),
            f"{estimate(each['top1_agreement'], 100)} %",
        )
        for each in body["artifacts"][: detail.rows]
    ]  # fmt: skip
    found = table(heads, rows, "Distance from the original; ± is one standard error", 6)
    original = body["artifacts"][0]["reference_perplexity"] if body["artifacts"] else None
    said = tag("p", f"Perplexity of the original: {estimate(original)}.") if original else ""
    return join([measured_on(body), found, said])


def gates(evaluations: Iterable[Record], detail: Detail) -> Markup:
    """Every gate with what was found and how."""
    rows = [
        (name(gate["gate"]), tag("span", "holds" if gate["ok"] else "FAILED", class_="good" if gate["ok"] else "bad"),
         name(each["name"]), digits(gate["value"]), digits(gate["bound"]), digits(gate["limit"]),
         visible(gate["how"]))
        for body in evaluations
        for each in body["artifacts"]
        for gate in each["gates"]
    ]  # fmt: skip
    if not rows:
        return Markup()
    heads = ("gate", "verdict", "artifact", "found", "bound", "limit", "how")
    note = "A gate asks the confidence bound, not what was found."
    return join(
        [tag("h2", "Gates"), tag("p", note), table(heads, rows[: detail.rows], "Gates and what became of them")]
    )


def pareto(variants: Sequence[tuple[str, Point]], what: str) -> Markup:
    """Loss against size, and which variants no other beats in both."""
    if len(variants) < 2:
        return Markup()
    points = [point for _, point in variants]
    best = set(frontier(points))
    rows = [
        (f"{at}", name(label), size(point.nbytes), digits(point.loss),
         ("no other is smaller and better" if at - 1 in best else "another is smaller and better")
         + ("" if point.ok else "; a gate FAILED"))
        for at, (label, point) in enumerate(variants, 1)
    ]  # fmt: skip
    says = f"KL divergence against size of {counted(len(points), 'variant')}. The table says the same in words."
    caption = f"{what} Down and to the left is better; the line joins variants that no other beats in both."
    words = table(("number", "variant", "size", "KL (nats)", "beside the others"), rows, "Variants by number")
    return join([tag("h2", "Quality against size"), figure(scatter(points, says), caption), words])


def variants_of(body: Record, detail: Detail) -> list[tuple[str, Point]]:
    """The artifacts of a measurement as points."""
    return [
        (each["name"], Point(each["bytes"], each["kl"]["value"], each["kl"]["standard_error"], each["ok"]))
        for each in body["artifacts"][: detail.rows]
    ]


def artifact(each: Record, number: int, detail: Detail) -> Markup:
    """One artifact: how its figures came about, where it errs, and what its bytes are spent on."""
    parts: list[Markup] = [tag("h2", name(each["name"]), id=f"artifact-{number}")]
    parts.append(tag("p", f"{size(each['bytes'])} ({each['bytes']:,} bytes)", *_identity(each), "."))
    if "kl" in each:
        parts.append(_facts(each))
        parts.append(tag("div", *_curves(each), class_="grid"))
        parts.append(_slices(each))
        parts += _damaged(each, detail)
    parts.append(spent(each.get("storage") or (), detail))
    if "worst" in each:
        parts.append(passages(each, detail))
    if each.get("prompts"):
        parts.append(asked.prompts(each["prompts"], detail.passages, detail.rows))
    if each.get("tasks"):
        parts.append(asked.tasks(each["tasks"], detail.rows))
    return tag("section", *parts)


def _identity(each: Record) -> Iterator[object]:
    if each.get("identity"):
        yield ", identity "
        yield tag("code", each["identity"][:16])


def _facts(each: Record) -> Markup:
    held = {True: "was not calibrated on", False: "WAS calibrated on", None: "may have been calibrated on"}
    quantiles = " · ".join(f"{key}{' %' if key[0].isdigit() else ''} {digits(q)}" for key, q in _quantiles(each))
    rows = [
        ("KL divergence", f"{estimate(each['kl'])} nats; {quantiles}"),
        ("right token", f"probability changes by {estimate(each['right_token_rms_change'], 100)} % (RMS)"),
        ("right first", f"{100 * each['accuracy']:.2f} %, the original {100 * each['reference_accuracy']:.2f} %"),
        ("inputs", visible(each["inputs"])),
        (
            "text",
            (
                f"that it {held[each['held_out']]}; errors over "
                f"{counted(each['clusters'], visible(each['cluster'], 20))}"
            ),
        ),
    ]
    if each.get("engine"):
        rows += asked.engine(each["engine"])
    return table(("figure", "found"), rows, "More figures")


def _quantiles(each: Record) -> list[tuple[str, float]]:
    return [(visible(key, 12), value) for key, value in each["kl_quantiles"].items() if key][:12]


def _curves(each: Record) -> Iterator[Markup]:
    blocks = [(block["block"], block["relative_error"]) for block in each["blocks"][:1000]]
    if blocks:
        last = (
            f"Relative error of hidden states after {counted(len(blocks), 'block')}, "
            f"{digits(blocks[-1][1])} after the last."
        )
        yield figure(curve(blocks, ("block", "relative error"), last), last)
    bins = each.get("kl_histogram") or ()
    if bins:
        labels = [(_bound(one["low"]), float(one["tokens"])) for one in bins[:64]]
        most = max(bins, key=lambda one: one["tokens"])
        end = f" to {_bound(most['high'])}" if most["high"] is not None else " and more"
        says = f"Tokens by their KL divergence in nats; most, {most['tokens']:,}, lie at {_bound(most['low'])}{end}."
        yield figure(bars(labels, ("KL divergence (nats)", "tokens"), says), says)


def _bound(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def _slices(each: Record) -> Markup:
    rows = [
        (visible(one["slice"]), f"{one['tokens']:,}", estimate(one["kl"]), f"{100 * one['top1_agreement']:.2f}",
         digits(one["perplexity_ratio"]))
        for one in each["slices"][:64]
    ]  # fmt: skip
    heads = ("tokens", "how many", "KL (nats)", "same top token (%)", "perplexity ratio")
    return table(heads, rows, "Slices of the text: where it loses most", 4) if rows else Markup()


def _damaged(each: Record, detail: Detail) -> Iterator[Markup]:
    weights = each["weights"]
    if weights is None:
        yield tag("p", "Scales were moved between layers on purpose: weights are not compared.")
        return
    damaged = weights["damaged"]
    if damaged:
        rows = [(name(one["tensor"]), name(one["type"]), visible(one["why"])) for one in damaged[: detail.rows]]
        many = f"{len(damaged):,} of {counted(weights['compared'], 'tensor')} are NOT the original's"
        yield table(("tensor", "type", "why"), rows, many)
    elif weights["furthest"]:
        worst = weights["furthest"][0]
        yield tag(
            "p", f"All {counted(weights['compared'], 'tensor')} are the original's as far as types allow; furthest ",
            name(worst["tensor"]), f" ({visible(worst['type'], 40)}, squared error {digits(worst['relative_error'])}).",
        )  # fmt: skip


def spent(storage: Sequence[Record], detail: Detail) -> Markup:
    """What the bytes are spent on, by type and by kind, and the map of types."""
    if not storage:
        return Markup()
    total = max(sum(each["bytes"] for each in storage), 1)

    def rows(found: list[tuple[str, int, int, int]]) -> list[tuple[object, ...]]:
        return [
            (name(label), f"{tensors:,}", f"{8 * nbytes / max(weights, 1):.2f}", size(nbytes),
             join([f"{100 * nbytes / total:.1f} %", strip(nbytes / total)]))
            for label, tensors, weights, nbytes in found[: detail.rows]
        ]  # fmt: skip

    heads = ("tensors", "bits a weight", "size", "share")
    both = [
        table(("type", *heads), rows(by_type(storage)), "Bytes by type", 4),
        table(("kind", *heads), rows(by_kind(storage)), "Bytes by kind of tensor", 4),
    ]
    drawn = type_map(storage, detail.rows, drawn=detail.maps)
    return join([tag("h3", "What the bytes are spent on"), tag("div", *both, class_="pair"), drawn])


def passages(each: Record, detail: Detail) -> Markup:
    """The worst passages: the text, and beside each other what both models would have put at every token."""
    shown = each["worst"][: detail.passages]
    if not shown:
        return Markup()
    note = (
        "At each token, what the model would have put there after the text so far; marked and underlined where the "
        "two differ."
    )
    return join([tag("h3", "Worst passages"), tag("p", note), *(_passage(one) for one in shown)])


def _passage(one: Record) -> Markup:
    says = (
        f"KL {digits(one['kl'])} nats a token over "
        f"{counted(one['tokens'], 'token')}; document {one['document']}, window "
        f"{one['window']}, from token {one['position'] + 1}. Probability of its tokens: original "
        f"{100 * one['reference_probability']:.2f} %, artifact {100 * one['probability']:.2f} %."
    )
    before = tag("span", visible(one["before"][-300:], MAX_TEXT), class_="faint")
    text = tag("p", before, tag("strong", visible(one["text"], MAX_TEXT)), class_="text", dir="auto")
    choices = (one.get("choices") or ())[:256]
    sides = [
        tag("div", tag("h4", title), tag("p", *(_token(choice, key) for choice in choices), class_="text", dir="auto"))
        for title, key in (("the original", "reference"), ("the artifact", "artifact"))
    ]
    return tag("article", tag("p", tag("small", says)), text, tag("div", *sides, class_="sides") if choices else "")


def _token(choice: Record, key: str) -> Markup:
    shown = visible(choice[key], MAX_TOKEN) or "∅"
    if choice["same"]:
        return tag("span", shown)
    return tag("mark", shown)


def trends(history: Sequence[Record], detail: Detail) -> Markup:
    """What each artifact lost, run after run on the same text against the same original, in the same engine."""
    series: dict[tuple[object, ...], list[Record]] = {}
    for line in history:
        series.setdefault(tuple(line.get(key) for key in SAME_RUNS), []).append(line)
    parts = []
    for found in [runs for runs in series.values() if len(runs) > 1][: detail.rows]:
        ordered = sorted(found, key=lambda line: line["time"])[-200:]
        points = [
            Point(line["bytes"], line["kl"]["value"], line["kl"]["standard_error"], line["ok"]) for line in ordered
        ]
        last = ordered[-1]
        says = (
            f"KL divergence of {visible(last['name'], 60)} over "
            f"{counted(len(points), 'run')}, from {_moment(ordered[0])} "
            f"to {_moment(last)}: {digits(points[0].loss)} then, {digits(points[-1].loss)} now."
        )
        parts.append(figure(trend(points, says), says))
    if not history:
        return Markup()
    recent = sorted(history, key=lambda line: line["time"])[-detail.rows :]
    rows = [
        (_moment(line), name(line["name"]), size(line["bytes"]), estimate(line["kl"]),
         estimate(line["perplexity_ratio"]), f"{estimate(line['top1_agreement'], 100)} %",
         "hold" if line["ok"] else "FAILED")
        for line in reversed(recent)
    ]  # fmt: skip
    heads = ("time", "artifact", "size", "KL (nats)", "ratio", "same top token", "gates")
    words = tag("details", tag("summary", "the runs as a table"), table(heads, rows, "Runs, the latest first"))
    if not parts:
        parts.append(tag("p", "No artifact was measured twice on the same text against the same original yet."))
    note = "Runs with another text, original or engine have a chart of their own. ✕: a gate did not hold."
    prompts = asked.runs(history, detail.rows)
    return join([tag("h2", "Trend"), tag("p", note), tag("div", *parts, class_="grid"), words, prompts])


def _moment(line: Record) -> str:
    """When a run was: day, hour and minute."""
    return visible(line["time"][:16].replace("T", " "))
