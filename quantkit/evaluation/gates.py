"""Gates: limits that a measurement has to keep, and whether it does with confidence.

    kld<0.03   kld_99<=0.5   ppl_ratio<=1.02   top1>=0.95   rms<=0.02   size<=0.35x   size<=4GB

A gate on a mean or a quantile asks the 95 % confidence bound, not the estimate: too little text fails a gate rather
than passes it by luck. Sizes are exact.

A profile says how much of the original must be left: with `assistant`, a text that the original finds likely, and one
that it would write itself, may on average lose no more than 5 % of a token's probability: exp(-0.0513) = 95 %.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import log

from quantkit.errors import InputError, UsageError, did_you_mean
from quantkit.evaluation.answers import RATES, PromptReport
from quantkit.evaluation.corpus import Corpus
from quantkit.evaluation.figures import QUANTILES, Estimate, Report, clusters_of, upper_quantile
from quantkit.evaluation.prompts import GOLDEN, PromptSet
from quantkit.evaluation.provable import fitting_set, require_provable
from quantkit.evaluation.scores import Scores
from quantkit.records import record
from quantkit.report.text import size
from quantkit.units import counted, parse_size
from quantkit.untrusted import shown

GATE = re.compile(r"\s*([A-Za-z0-9_.]+)\s*(<=|>=|<|>|=)\s*([^<>=]+?)\s*")
NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{0,12})?(e-?[0-9]{1,2})?|\.[0-9]{1,12}")
DEFAULT = "default"  # whatever the recipe: the artifact holds the weights of the original
RETAINED = {"high-stakes": 0.99, "assistant": 0.95, "brainstorm": 0.90}
PROFILES = (DEFAULT, *RETAINED)
LONG = 1e6  # from here on numbers are told as 1.2e+06
EXAMPLE = "for example --gate 'kld<0.03'"


@record
class Subject:
    """What gates are asked about: figures where there are any, and sizes in bytes."""

    nbytes: int
    source_bytes: int
    report: Report | None = None
    scores: Scores | None = None
    corpus: Corpus | None = None
    prompts: PromptReport | None = None


@record
class Figure:
    """A number as measured, the bound that a gate asks, and how that came about."""

    value: float
    bound: float
    how: str


@record
class Metric:
    """A number that gates may limit. `less` says that less of it is better. `read` finds it, `unit` is what limits may
    end in: "%" for shares, "x" and sizes for "size". `needs` says what has to be there: "bound" is text enough for a
    confidence bound, "text" any, "prompts" prompts, "nothing" none. `best` is the best value that there is, which
    nothing can beat, and with `never` not even reach; `worst` is the worst that there is, None without any."""

    name: str
    what: str
    less: bool
    read: Callable[[Subject], Figure]
    unit: str = ""
    needs: str = "bound"
    best: float = 0.0
    never: bool = False
    worst: float | None = None


@record
class Gate:
    """A limit as it was given. With `relative` it is a multiple of the source's size."""

    text: str
    metric: Metric
    strict: bool
    limit: float
    relative: bool = False


@record
class Verdict:
    """What became of a gate: `bound` was compared with `limit`."""

    gate: str
    metric: str
    value: float
    bound: float
    limit: float
    how: str
    ok: bool

    @property
    def words(self) -> str:
        """ "kld<0.03: 0.0021, at most 0.0024 (95 % bound over 42 documents)"."""
        if self.value == self.bound:
            return f"{self.gate}: {shown_number(self.metric, self.value)} ({self.how})"
        side = "at most" if METRICS[self.metric].less else "at least"
        found, bound = (shown_number(self.metric, number) for number in (self.value, self.bound))
        return f"{self.gate}: {found}, {side} {bound} ({self.how})"

    def as_json(self) -> dict[str, object]:
        return {
            "gate": self.gate,
            "metric": self.metric,
            "value": self.value,
            "bound": self.bound,
            "limit": self.limit,
            "how": self.how,
            "ok": self.ok,
        }


def shown_number(metric: str, value: float) -> str:
    """A number as people read it."""
    if metric in ("damaged", "lost"):
        return f"{value:.0f}"
    if metric == "size":
        return size(value)
    return f"{value:.4f}" if 1 <= abs(value) < LONG else f"{value:.4g}"


def parse_gates(texts: Sequence[str]) -> list[Gate]:
    """Gates and profiles, as given. Raises UsageError for what is neither, naming the nearest known name."""
    found: list[Gate] = []
    for text in texts:
        if text in RETAINED:
            found += _profile(text)
            continue
        if text == DEFAULT:
            found.append(Gate(f"{DEFAULT}: damaged<=0", METRICS["damaged"], False, 0.0))
            continue
        match = GATE.fullmatch(text)
        if match is None:
            message = f'--gate "{text[:60]}" is no gate{did_you_mean(text, PROFILES)}'
            hint = f"a name, < or >, and a number ({EXAMPLE}), or a profile: {', '.join(PROFILES)}"
            raise UsageError(message, key="gate", hint=hint)
        found.append(_gate(text.strip(), match[1].lower(), match[2], match[3]))
    return found


def _profile(name: str) -> list[Gate]:
    kept = RETAINED[name]
    return [
        Gate(f"{name}: kld<={-log(kept):.4f}", METRICS["kld"], False, -log(kept)),
        Gate(f"{name}: ppl_ratio<={1 / kept:.4f}", METRICS["ppl_ratio"], False, 1 / kept),
    ]


def _gate(text: str, name: str, sign: str, value: str) -> Gate:
    metric = METRICS.get(name)
    if metric is None:
        message = f'--gate "{text[:60]}": unknown gate "{name[:40]}"{did_you_mean(name, METRICS)}'
        raise UsageError(message, key="gate", hint=f"gates: {', '.join(METRICS)}; profiles: {', '.join(PROFILES)}")
    if sign.startswith("<") != metric.less or sign == "=":
        better, wanted = ("less", "<=") if metric.less else ("more", ">=")
        message = f'--gate "{text[:60]}": {better} {name} is better, so a gate on it is {name}{wanted}'
        raise UsageError(message, key="gate", hint=f"--gate '{name}{wanted}{value}'")
    limit, relative = _limit(text, metric, value)
    gate = Gate(text, metric, len(sign) == 1, limit, relative)
    _require_sense(gate, value)
    return gate


def _require_sense(gate: Gate, value: str) -> None:
    """Raise UsageError for a limit that nothing can hold, and for one that everything holds."""
    metric, limit = gate.metric, gate.limit
    ahead = limit - metric.best if metric.less else metric.best - limit
    if ahead < 0 or ((gate.strict or metric.never) and ahead == 0):
        best = f"every {metric.name} is above" if metric.never else f"the best {metric.name} is"
        message = f'--gate "{gate.text[:60]}": nothing can hold it, {best} {metric.best:g}'
        per_cent = metric.unit == "%" and 1 < limit <= 100 and not value.endswith("%")
        hint = f"for per cent: --gate '{metric.name}>={value}%'" if per_cent else EXAMPLE
        raise UsageError(message, key="gate", hint=hint)
    if metric.worst is None:
        return
    behind = limit - metric.worst if metric.less else metric.worst - limit
    if behind > 0 or (behind == 0 and not gate.strict):
        message = f'--gate "{gate.text[:60]}": everything holds it, the worst {metric.name} is {metric.worst:g}'
        raise UsageError(message, key="gate", hint=EXAMPLE)


def _limit(text: str, metric: Metric, value: str) -> tuple[float, bool]:
    """The number that a gate names, and whether it is a multiple of the source's size."""
    if metric.name == "size" and not value.lower().endswith("x"):
        return parse_size(value, f'--gate "{text[:60]}": size'), False
    if metric.name == "size":
        return _number(text, value[:-1]), True
    if metric.unit == "%" and value.endswith("%"):
        return _number(text, value[:-1]) / 100, False
    return _number(text, value), False


def _number(text: str, value: str) -> float:
    if NUMBER.fullmatch(value.strip()) is None:
        raise UsageError(f'--gate "{text[:60]}": "{value[:20]}" is no number', key="gate", hint=EXAMPLE)
    return float(value)


def require_measured(
    gates: Sequence[Gate], *, text: bool, option: str = "--data", prompts: PromptSet | None = None
) -> None:
    """Raise UsageError, before any work, for a gate on what will not be measured."""
    for gate in gates:
        name = gate.metric.name
        if gate.metric.needs in ("bound", "text") and not text:
            hint = f"give {option} FILE, text that the model was not calibrated on"
            raise UsageError(f'--gate "{gate.text}" needs text to measure {name} on', key="gate", hint=hint)
        if gate.metric.needs == "prompts" and prompts is None:
            message = f'--gate "{gate.text}": {name} is measured on prompts, such as the golden prompts that ship'
            hint = f"quantkit eval --prompts {fitting_set([name]) or GOLDEN}, or --prompts FILE"
            raise UsageError(message, key="gate", hint=hint)
        if gate.metric.needs == "prompts" and prompts is not None:
            require_provable(gate.text, name, gate.limit, prompts)


def require_judgeable(gates: Sequence[Gate], corpus: Corpus, moved: Sequence[str] = ()) -> None:
    """Raise InputError, before any model runs, for gates that nobody could judge: bounds over text of one piece,
    damage to artifacts whose scales are known to be `moved` (their names)."""
    asked = [gate for gate in gates if gate.metric.needs == "bound"]
    if asked and clusters_of(corpus)[0].max() == 0:
        what = f"{counted(corpus.tokens, 'token')} of one window"
        window, most = corpus.cut.window, corpus.cut.tokens
        hint = f"give more text: of several documents, or longer than {counted(window, 'token')}"
        if most is not None and most < 2 * window:
            hint = f"take more of the text: --tokens {2 * window}, or a smaller --window"
        raise InputError(f"{what} have no confidence bound, which {asked[0].text} asks", key="data", hint=hint)
    if moved and any(gate.metric.name == "damaged" for gate in gates):
        raise _on_purpose(moved[0])


def _on_purpose(name: str) -> InputError:
    what = f"scales of {shown(name)} were moved between layers: its weights differ from the original's on purpose"
    return InputError(what, key="gate", hint="gate on kld and ppl_ratio; quantkit verify --against compares weights")


def judge(gates: Sequence[Gate], subject: Subject) -> list[Verdict]:
    """Whether each gate holds. Raises InputError for `damaged` where weights turned out to differ on purpose."""
    return [_judged(gate, subject) for gate in gates]


def _judged(gate: Gate, subject: Subject) -> Verdict:
    figure = gate.metric.read(subject)
    limit = gate.limit * subject.source_bytes if gate.relative else gate.limit
    ahead = limit - figure.bound if gate.metric.less else figure.bound - limit
    ok = ahead > 0 or (ahead == 0 and not gate.strict)
    return Verdict(gate.text, gate.metric.name, figure.value, figure.bound, limit, figure.how, bool(ok))


def _report(subject: Subject) -> Report:
    assert subject.report is not None, "require_measured"
    assert subject.report.kl.error is not None, "require_judgeable"
    return subject.report


def _bound(pick: Callable[[Report], Estimate], *, high: bool) -> Callable[[Subject], Figure]:
    def read(subject: Subject) -> Figure:
        report = _report(subject)
        found = pick(report)
        return Figure(found.value, found.high if high else found.low, _over(report))

    return read


def _over(report: Report) -> str:
    return f"95 % confidence bound over {counted(report.clusters, report.unit)}"


def _quantile(name: str, at: float) -> Callable[[Subject], Figure]:
    def read(subject: Subject) -> Figure:
        report = _report(subject)
        assert subject.scores is not None
        assert subject.corpus is not None
        bound = upper_quantile(subject.scores.kl, clusters_of(subject.corpus)[0], at)
        value = report.quantiles[name]
        return Figure(value, max(value, bound), f"{_over(report)}, resampled")

    return read


def _largest(subject: Subject) -> Figure:
    assert subject.report is not None, "require_measured"
    value = subject.report.quantiles["max"]
    return Figure(value, value, f"the largest of {counted(subject.report.tokens, 'token')}")


def _last_error(subject: Subject) -> Figure:
    assert subject.report is not None, "require_measured"
    value = subject.report.errors[-1][1]
    return Figure(value, value, f"after block {subject.report.errors[-1][0]}")


def _damaged(subject: Subject) -> Figure:
    report = subject.report
    assert report is not None, "require_measured"
    if report.weights is None:
        raise _on_purpose(report.name)
    found = report.damaged
    how = f"of {counted(len(report.weights), 'tensor')}"
    if found:
        how = f"{how}, first {found[0].tensor}: {found[0].wrong}"
    return Figure(len(found), len(found), how)


def _size(subject: Subject) -> Figure:
    share = subject.nbytes / max(subject.source_bytes, 1)
    return Figure(subject.nbytes, subject.nbytes, f"{share:.3f}x of the source")


def _prompts(subject: Subject) -> PromptReport:
    assert subject.prompts is not None, "require_measured"
    return subject.prompts


def _rate(name: str) -> Callable[[Subject], Figure]:
    def read(subject: Subject) -> Figure:
        rate = _prompts(subject).rates[name]
        assert rate is not None, "require_expected"
        how = f"95 % Wilson bound over {counted(rate.prompts, 'prompt')}, the original {rate.reference:.4g}"
        return Figure(rate.other.value, rate.other.low, how)

    return read


def _over_prompts(pick: Callable[[PromptReport], Estimate]) -> Callable[[Subject], Figure]:
    def read(subject: Subject) -> Figure:
        report = _prompts(subject)
        found = pick(report)
        return Figure(found.value, found.low, f"95 % confidence bound over {counted(len(report.answers), 'prompt')}")

    return read


def _lost(subject: Subject) -> Figure:
    report = _prompts(subject)
    names = [answer.name for answer in report.answers if answer.lost]
    first = f", first {shown(names[0], 40)}" if names else ""
    return Figure(len(names), len(names), f"of {counted(len(report.answers), 'prompt')}{first}")


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("kld", "mean KL divergence in nats", True, _bound(lambda r: r.kl, high=True)),
        *(
            Metric(f"kld_{name}", f"KL divergence, quantile {name}", True, _quantile(name, at))
            for name, at in QUANTILES.items()
        ),
        Metric("kld_max", "largest KL divergence", True, _largest, needs="text"),
        Metric(
            "ppl_ratio", "perplexity relative to the original", True, _bound(lambda r: r.ratio, high=True), never=True
        ),
        Metric("ppl", "perplexity", True, _bound(lambda r: r.perplexity, high=True), best=1.0),
        Metric(
            "top1", "share of equal first tokens", False, _bound(lambda r: r.top1, high=False), "%", best=1.0, worst=0.0
        ),
        Metric(
            "rms",
            "RMS change of the right token's probability",
            True,
            _bound(lambda r: r.right_change, high=True),
            worst=1.0,
        ),
        Metric("hidden", "relative error of hidden states after the last block", True, _last_error, needs="text"),
        Metric("damaged", "weights that are not the original's", True, _damaged, needs="text"),
        *(
            Metric(name, f"share of prompts, {name}", False, _rate(name), unit="%", needs="prompts", best=1.0)
            for name in RATES
        ),
        Metric(
            "identical",
            "share of equal continuations",
            False,
            _over_prompts(lambda r: r.identical),
            "%",
            "prompts",
            1.0,
        ),
        Metric(
            "divergence",
            "share of equal tokens before the first that differs",
            False,
            _over_prompts(lambda r: r.divergence),
            "%",
            "prompts",
            1.0,
        ),
        Metric("lost", "prompts that the original passes and the artifact does not", True, _lost, needs="prompts"),
        Metric("size", "bytes of the files with weights", True, _size, unit="x", needs="nothing", never=True),
    )
}
