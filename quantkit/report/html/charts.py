"""Charts as SVG: curves, bars, points with error bars. Every one says in words what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, isfinite, log10

from quantkit.records import record
from quantkit.report.html.markup import Markup, digits, picture, tag, visible
from quantkit.report.text import size

WIDTH, HEIGHT = 360.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 14.0, 34.0
LEAST = 1e-9  # of a scale of magnitudes: what is smaller lies on its edge
TICKS = 5


@record
class Scale:
    """From values to places between `start` and `stop`; by magnitudes where `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(max(value, self.low))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values along the scale, few enough to be read."""
        if not self.log:
            step = _step((self.high - self.low) / TICKS)
            return [n * step for n in range(ceil(self.low / step), floor(self.high / step) + 1)]
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        every = max(ceil((last - first + 1) / TICKS), 1)
        found = [10.0**n for n in range(first, last + 1, every)]
        return found if len(found) > 1 else [self.low, self.high]


def _step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(power * n for n in (1.0, 2.0, 5.0, 10.0) if power * n >= least * 0.999)


def scale_of(values: Sequence[float], start: float, stop: float, *, log: bool) -> Scale:
    """A scale that all finite values fit on, with room at both ends; linear ones begin at zero."""
    known = [value for value in values if isfinite(value)] or [1.0]
    if log:
        positive = [max(value, LEAST) for value in known]
        low, high = min(positive) / 1.25, max(positive) * 1.25
        return Scale(low, high, start, stop, True)
    high = max(max(known), 0.0) * 1.05 or 1.0
    return Scale(min(min(known), 0.0), high, start, stop, False)


def frame(x: Scale, y: Scale, x_says: Callable[[float], str], axes: tuple[str, str]) -> list[Markup]:
    """Axes with their ticks; `axes` says what they are, along and up."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        tag("line", class_="axis", x1=f"{LEFT:g}", y1=f"{bottom:g}", x2=f"{right:g}", y2=f"{bottom:g}"),
        tag("text", axes[0], class_="small end", x=f"{right:g}", y=f"{HEIGHT - 4:g}"),
        tag("text", axes[1], class_="small", x="4", y="10"),
    ]
    for value in x.ticks():
        parts.append(tag("text", x_says(value), class_="small mid", x=f"{x(value):.1f}", y=f"{bottom + 13:g}"))
    for value in y.ticks():
        at = y(value)
        parts.append(tag("line", class_="rule", x1=f"{LEFT:g}", y1=f"{at:.1f}", x2=f"{right:g}", y2=f"{at:.1f}"))
        parts.append(tag("text", digits(value), class_="small end", x=f"{LEFT - 4:g}", y=f"{at + 3:.1f}"))
    return parts


def _along(values: Sequence[float], *, log: bool) -> Scale:
    return scale_of(values, LEFT + 8, WIDTH - RIGHT - 12, log=log)


def _up(values: Sequence[float], *, log: bool) -> Scale:
    return scale_of(values, HEIGHT - BOTTOM, TOP + 6, log=log)


def curve(points: Sequence[tuple[str, float]], axes: tuple[str, str], says: str) -> Markup:
    """Values in an order, such as errors after each block: a line from zero up."""
    y = _up([value for _, value in points], log=False)
    x = Scale(0.0, max(len(points) - 1, 1), LEFT + 8, WIDTH - RIGHT - 12, False)
    places = [(x(float(at)), y(value)) for at, (_, value) in enumerate(points)]
    line = tag("polyline", class_="curve", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places))
    dots = [
        tag("circle", tag("title", f"{visible(point[0])}: {digits(point[1])}"), class_="dot", cx=f"{a:.1f}",
            cy=f"{b:.1f}", r="2.5")
        for point, (a, b) in zip(points, places, strict=True)
    ]  # fmt: skip
    return picture(WIDTH, HEIGHT, says, *frame(x, y, lambda v: f"{v:g}" if v == int(v) else "", axes), line, *dots)


def bars(bins: Sequence[tuple[str, float]], axes: tuple[str, str], says: str) -> Markup:
    """Counts side by side; every second one is named."""
    y = _up([value for _, value in bins], log=False)
    step = (WIDTH - LEFT - RIGHT) / max(len(bins), 1)
    none = Scale(0.0, 1.0, 0.0, 0.0, False)
    parts: list[Markup] = [p for p in frame(none, y, lambda v: "", axes) if "></text>" not in p]
    bottom = HEIGHT - BOTTOM
    for at, (label, value) in enumerate(bins):
        left, top = LEFT + at * step, y(value)
        parts.append(
            tag("rect", tag("title", f"{label}: {value:,.0f}"), class_="bar", x=f"{left + 1:.1f}", y=f"{top:.1f}",
                width=f"{max(step - 2, 1):.1f}", height=f"{bottom - top:.1f}")
        )  # fmt: skip
        if at % 2 == 1:
            parts.append(tag("text", label, class_="small mid", x=f"{left:.1f}", y=f"{bottom + 13:g}"))
    return picture(WIDTH, HEIGHT, says, *parts)


@record
class Point:
    """A variant: its bytes, what it loses, the standard error of that, and whether its gates hold."""

    nbytes: float
    loss: float
    error: float | None
    ok: bool


def frontier(points: Sequence[Point]) -> list[int]:
    """The numbers of those that no other is smaller and better than, from the smallest on."""
    best, found = float("inf"), []
    for at in sorted(range(len(points)), key=lambda n: (points[n].nbytes, points[n].loss)):
        if points[at].loss < best:
            best = points[at].loss
            found.append(at)
    return found


def scatter(points: Sequence[Point], says: str) -> Markup:
    """Loss against size, both by magnitudes; numbers stand for the variants, a line joins those at the edge."""
    x = _along([point.nbytes for point in points], log=True)
    y = _up([max(point.loss, LEAST) for point in points], log=True)
    parts = frame(x, y, size, ("size", "KL divergence (nats)"))
    edge = [(x(points[at].nbytes), y(points[at].loss)) for at in frontier(points)]
    parts.append(tag("polyline", class_="dash", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in edge)))
    for number, point in enumerate(points, 1):
        a, b = x(point.nbytes), y(point.loss)
        if point.error:
            low, high = y(max(point.loss - point.error, y.low)), y(point.loss + point.error)
            parts.append(tag("line", class_="error", x1=f"{a:.1f}", y1=f"{low:.1f}", x2=f"{a:.1f}", y2=f"{high:.1f}"))
        mark = "dot" if point.ok else "dot bad"
        parts.append(tag("circle", class_=mark, cx=f"{a:.1f}", cy=f"{b:.1f}", r="4"))
        sign = "" if point.ok else " ✕"
        parts.append(tag("text", f"{number}{sign}", x=f"{a + 6:.1f}", y=f"{b - 5:.1f}"))
    return picture(WIDTH, HEIGHT, says, *parts)


def trend(runs: Sequence[Point], says: str) -> Markup:
    """What was lost, run after run, from zero up."""
    y = _up([run.loss + (run.error or 0.0) for run in runs], log=False)
    x = Scale(1.0, max(float(len(runs)), 2.0), LEFT + 8, WIDTH - RIGHT - 12, False)
    places = [(x(float(at)), y(run.loss)) for at, run in enumerate(runs, 1)]
    parts = frame(x, y, lambda v: f"{v:g}" if v == int(v) else "", ("run", "KL divergence (nats)"))
    parts.append(tag("polyline", class_="curve", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places)))
    for run, (a, b) in zip(runs, places, strict=True):
        if run.error:
            low, high = y(run.loss - run.error), y(run.loss + run.error)
            parts.append(tag("line", class_="error", x1=f"{a:.1f}", y1=f"{low:.1f}", x2=f"{a:.1f}", y2=f"{high:.1f}"))
        parts.append(tag("circle", class_="dot" if run.ok else "dot bad", cx=f"{a:.1f}", cy=f"{b:.1f}", r="3"))
        if not run.ok:
            parts.append(tag("text", "✕", class_="mid", x=f"{a:.1f}", y=f"{b - 6:.1f}"))
    return picture(WIDTH, HEIGHT, says, *parts)


def strip(share: float) -> Markup:
    """A bar as long as a share, beside the number that says the same."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    inner = tag("rect", class_="bar", x="0", y="1", width=width, height="8")
    return tag("svg", inner, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true", class_="strip")
