"""What is known of the quality of finished artifacts: what eval measured, and how gates were judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from quantkit.errors import QuantkitError
from quantkit.pipeline.folder import Finished
from quantkit.pipeline.output import GATES
from quantkit.pipeline.report import read_records
from quantkit.records import record
from quantkit.report.card import Measured
from quantkit.report.release import RELEASE, read_release
from quantkit.report.sealed import identity
from quantkit.schemas.evaluation import Estimate
from quantkit.schemas.release import Quality
from quantkit.units import counted


@record
class Judged:
    """What became of a gate: `by` is "convert", "eval", a "history" of it, or a "release". Of a history nobody knows
    which gate it was."""

    gate: str
    ok: bool
    by: str
    metric: str | None = None
    value: float | None = None
    bound: float | None = None
    limit: float | None = None
    how: str = ""

    @property
    def words(self) -> str:
        if self.bound is None or self.limit is None:
            return f"{self.gate} ({self.how})" if self.how else self.gate
        return f"{self.gate}: {self.value:.4g}, bound {self.bound:.4g}"

    def as_json(self) -> dict[str, Any]:
        return {
            "gate": self.gate,
            "ok": self.ok,
            "by": self.by,
            "metric": self.metric,
            "value": self.value,
            "bound": self.bound,
            "limit": self.limit,
            "how": self.how,
        }


def gates_of(one: Finished, judged: Mapping[str, Sequence[Judged]]) -> tuple[Judged, ...]:
    """The gates of an artifact: those of convert, and those that are `judged` by records; where no record judges it,
    those of the release.json beside it."""
    later = judged.get(one.manifest.identity) or tuple(_in_release(one))
    return tuple(dict.fromkeys((*_by_convert(one), *later)))


def measured_of(one: Finished, measured: Mapping[str, Measured]) -> Measured | None:
    """What is known of an artifact's quality: by a record, by the release.json beside it, by the gates of convert."""
    found = measured.get(one.manifest.identity) or _measured_in_release(one)
    return found or next(_measured_by_convert(one), None)


def measured_in(records: Sequence[Path]) -> dict[str, Measured]:
    """Identity of an artifact -> what was measured of it last: by time, then in the order that records are given in."""
    found: list[tuple[str, str, Measured]] = []
    for path in records:
        page = read_records(path)
        for line in page.history:
            if line["identity"]:
                known = Measured(
                    line["kl"], line["top1_agreement"], line["perplexity_ratio"], line["tokens"],
                    "a text of hash " + line["data"][:16], line["reference"], line["version"], line.get("engine"),
                    line.get("held_out"),
                )  # fmt: skip
                found.append((str(line["time"]), line["identity"], known))
        for body in page.evaluations:
            for each in body["artifacts"]:
                if each["identity"]:
                    ran = each["engine"]["name"] if each.get("engine") else None
                    known = Measured(
                        each["kl"], each["top1_agreement"], each["perplexity_ratio"], each["tokens"],
                        body["data"]["name"], body["reference"]["sha256"], body["version"], ran, each["held_out"],
                    )  # fmt: skip
                    found.append((_time(body), each["identity"], known))
    return {identity_: known for _, identity_, known in sorted(found, key=lambda one: one[0])}


def _measured_by_convert(one: Finished) -> Iterator[Measured]:
    """The divergence that convert's gates were judged by, on text that the artifact was not calibrated on."""
    reference = identity("original", one.manifest.source_files)  # as eval calls it
    for check in one.manifest.facts.get("checks") or ():
        if isinstance(check, Mapping) and check.get("check") == GATES and "kl" in check:
            with suppress(KeyError, TypeError, ValueError):
                data = check["data"]
                kl = msgspec.convert(check["kl"], Estimate)
                version = str(one.manifest.facts["tool"]["version"])
                yield Measured(kl, None, None, int(data["tokens"]), str(data["name"]), reference, version, None, True)


def _measured_in_release(one: Finished) -> Measured | None:
    said = _entry_of(one).get("quality")
    try:
        found = msgspec.convert(said, Quality)
    except msgspec.ValidationError:
        return None
    return Measured(
        found["kl"], found["top1_agreement"], found["perplexity_ratio"], found["tokens"], found["data"],
        found["reference"], found["version"], found["engine"], found["held_out"],
    )  # fmt: skip


def _by_convert(one: Finished) -> Iterator[Judged]:
    for check in one.manifest.facts.get("checks") or ():
        if isinstance(check, Mapping) and check.get("check") == GATES:
            yield from _judgements(check.get("gates") or (), "convert")


def judged_in(records: Sequence[Path]) -> dict[str, list[Judged]]:
    """Identity of an artifact -> its gates. Of a gate that was judged more than once on the same text the newest
    judgement counts; a run of a history where nothing of the same original, text and engine came after it."""
    gates: dict[tuple[str, ...], tuple[str, Judged]] = {}
    runs: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for path in records:
        page = read_records(path)
        for body in page.evaluations:
            for each in (one for one in body["artifacts"] if one["identity"]):
                text, time = _text_of(body, each), _time(body)
                for judged in _judgements(each["gates"], "eval"):
                    key = (each["identity"], judged.gate, *text)
                    if key not in gates or gates[key][0] <= time:
                        gates[key] = time, judged
        for line in (one for one in page.history if one["identity"]):
            key = line["identity"], line["data"], line["reference"], line.get("engine") or ""
            if key not in runs or str(runs[key]["time"]) <= str(line["time"]):
                runs[key] = line
    found: dict[str, list[Judged]] = {}
    for (whose, *_), (_, judged) in gates.items():
        found.setdefault(whose, []).append(judged)
    for (whose, data, *_), line in runs.items():
        if not line["ok"]:
            how = f"{counted(line['tokens'], 'token')} of a text of hash {data[:16]}"
            found.setdefault(whose, []).append(Judged("gates of a run", False, "history", how=how))
    return found


def _time(body: Mapping[str, Any]) -> str:
    """When a measurement ended, by UTC; "", which is before all others, of one that does not say it."""
    return str(body.get("time") or "")


def _text_of(body: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells that two measurements asked the same: the original, the tokens, how they were cut, prompts, engine."""
    data, engine, prompts = body["data"], one.get("engine"), one.get("prompts")
    return (
        body["reference"]["sha256"], data["token_sha256"], str(data["window"]), data["score"],
        engine["name"] if engine else "", prompts["sha256"] if prompts else "",
    )  # fmt: skip


def _in_release(one: Finished) -> Iterator[Judged]:
    gates = _entry_of(one).get("gates")
    if isinstance(gates, Mapping):
        yield from (each for each in _judgements(gates.get("judged") or (), "release") if each.by != "convert")


def _entry_of(one: Finished) -> Mapping[str, Any]:
    """What the release.json beside an artifact says of it; {} where there is none, or somebody else's: whoever writes
    a release says so."""
    path = one.first.parent / RELEASE
    if path.is_file():
        with suppress(QuantkitError):
            for each in read_release(path)["artifacts"]:
                if each.get("identity") == one.manifest.identity:
                    return dict(each)
    return {}


def _judgements(gates: Any, by: str) -> Iterator[Judged]:
    for each in gates if isinstance(gates, Sequence) else ():
        if isinstance(each, Mapping) and "gate" in each:
            figures = {key: _number(each.get(key)) for key in ("value", "bound", "limit")}
            metric = each.get("metric")
            yield Judged(
                str(each["gate"]), bool(each.get("ok")), str(each.get("by") or by),
                None if metric is None else str(metric), **figures, how=str(each.get("how") or ""),
            )  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
