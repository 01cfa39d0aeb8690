"""Charts as inline SVG: no script, colours from the page (light, dark, print), each told in words by a label.

Flat charts have widths in per cent, so that text and strokes keep their size on a narrow window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from gristmill.report.text import amount, compact, duration, percent, visible
from gristmill.report.words import Bar, direction

WIDE, HIGH = 340, 264
"""Size of the square-ish charts in their own units; on the page one unit is at most one and a half pixels."""
LEFT, RIGHT, TOP, BOTTOM = 44, 22, 28, 40


def _svg(body: str, label: str, box: str, kind: str) -> Markup:
    text = escape(visible(label))
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{text}" viewBox="{box}">'
        f"<title>{text}</title>{body}</svg>"
    )


def _flat(body: str, label: str, height: int, kind: str) -> Markup:
    """A chart that is as wide as its place, with x in per cent."""
    text = escape(visible(label))
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{text}" width="100%" height="{height}">'
        f"<title>{text}</title>{body}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(visible(text))}</text>'
    )


def dots(value: float, low: float, high: float) -> Markup:
    """A hundred dots: surely right, perhaps right (within the interval), wrong."""
    sure, about, most = (round(100 * v) for v in (low, value, high))
    marks = []
    for i in range(100):
        kind = "sure" if i < sure else "maybe" if i < most else "wrong"
        marks.append(f'<circle cx="{8 + 16 * (i % 20)}" cy="{8 + 16 * (i // 20)}" r="5.5" class="{kind}"/>')
    label = f"100 dots: about {about} right, between {sure} and {most}; the rest wrong."
    return _svg("".join(marks), label, "0 0 320 80", "dots")


def comparison(bars: Sequence[Bar], name: str) -> list[tuple[Bar, Markup]]:
    """Each bar with its drawing: length is the value, the whisker its 95 % interval."""
    if not bars:
        return []
    ends = [b.high if b.high is not None else b.value for b in bars]
    top = 1.0 if direction(name) > 0 else max(*ends, 1e-12)
    return [(bar, _bar(bar, top)) for bar in bars]


def _bar(bar: Bar, top: float) -> Markup:
    def at(value: float) -> float:
        return 100.0 * min(1.0, max(0.0, value / top))

    body = '<rect x="0" y="3" width="100%" height="12" rx="6" class="track"/>'
    body += f'<rect x="0" y="3" width="{at(bar.value):.2f}%" height="12" rx="6" class="fill {bar.role}"/>'
    label = f"{bar.name}: {bar.shown}"
    if bar.low is not None and bar.high is not None:
        low, high = at(bar.low), at(bar.high)
        body += f'<line x1="{low:.2f}%" x2="{high:.2f}%" y1="9" y2="9" class="whisker"/>'
        body += "".join(
            f'<line x1="{x:.2f}%" x2="{x:.2f}%" y1="4" y2="14" class="whisker"/>' for x in (low, high)
        )
    return _flat(body, label, 18, "bar")


def recall_bar(one: Mapping[str, Any]) -> Markup:
    """A class's recall with Wilson's interval, small enough for a table cell."""
    if one["recall"] is None:
        return Markup("")
    low, high, value = (100.0 * one[k] for k in ("recall_low", "recall_high", "recall"))
    body = (
        '<rect x="0" y="5" width="100%" height="4" rx="2" class="track"/>'
        f'<rect x="{low:.1f}%" y="5" width="{max(1.0, high - low):.1f}%" height="4" rx="2" class="range"/>'
        f'<circle cx="{value:.1f}%" cy="7" r="4" class="mark"/>'
    )
    found, least, most = (percent(one[k]) for k in ("recall", "recall_low", "recall_high"))
    label = f"{found} found, between {least} and {most}"
    return _flat(body, label, 14, "mini")


class _Axes:
    """Places of values in a chart, and its frame with ticks and titles."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x_range, self.y_range = x, y

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDE - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (value - low) / (high - low)

    def frame(
        self, titles: tuple[str, str], ticks: tuple[Sequence[float], Sequence[float]], *, shares: bool
    ) -> str:
        show = percent if shares else compact
        parts = []
        for v in ticks[0]:
            parts.append(_text(self.x(v), HIGH - BOTTOM + 15, show(v), "tick"))
        for v in ticks[1]:
            y = self.y(v)
            parts.append(f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(_text(LEFT - 6, y + 4, show(v), "tick", "end"))
        parts.append(_text((LEFT + WIDE - RIGHT) / 2, HIGH - 6, titles[0], "axis"))
        return "".join(parts) + _text(4, 12, titles[1], "axis", "start")

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)
        return f'<polyline points="{path}" class="{kind}"/>'

    def dot(self, a: float, b: float, radius: float, kind: str) -> str:
        return f'<circle cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="{radius:.1f}" class="{kind}"/>'


FEW = 5
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def calibration(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Stated confidence against share of right answers; dots grow with the rows behind them."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0))
    most = max(b["n"] for b in bins)
    points = [(b["confidence"], b["accuracy"]) for b in bins]
    body = axes.frame(("stated confidence", "really right"), (QUARTERS, QUARTERS), shares=True)
    body += axes.line([(0, 0), (1, 1)], "ideal")
    # a bin of a few rows is noise: it gets its small dot, the line passes it by
    body += axes.line([xy for xy, b in zip(points, bins, strict=True) if b["n"] >= FEW], "curve")
    body += "".join(
        axes.dot(x, y, 2.5 + 4.5 * math.sqrt(b["n"] / most), "point")
        for (x, y), b in zip(points, bins, strict=True)
    )
    told = ", ".join(f"{percent(x)} sure and {percent(y)} right" for x, y in points)
    return _svg(body, f"Confidence against share right: {told}.", f"0 0 {WIDE} {HIGH}", "chart")


def abstention(curve: Sequence[Mapping[str, float]], chosen: Mapping[str, float] | None) -> Markup:
    """Share right among the answered, against the share answered."""
    low = min(p["accuracy"] for p in curve)
    bottom = max(0.0, math.floor(10 * min(low, 0.9)) / 10)
    axes = _Axes((0.0, 1.0), (bottom, 1.0))
    step = 0.05 if bottom >= 0.75 else 0.1 if bottom >= 0.5 else 0.2 if round(10 * bottom) % 2 == 0 else 0.1
    steps = [1.0 - step * k for k in range(round((1.0 - bottom) / step) + 1)]
    body = axes.frame(("answered", "right among the answered"), (QUARTERS, steps), shares=True)
    body += axes.line([(p["coverage"], p["accuracy"]) for p in curve], "curve")
    first, last = curve[0], curve[-1]
    told = f"Answering {percent(first['coverage'])} is {percent(first['accuracy'])} right; answering "
    told += f"{percent(last['coverage'])} is {percent(last['accuracy'])} right."
    if chosen and chosen["accuracy"] >= bottom and chosen["coverage"] > 0:
        body += axes.dot(chosen["coverage"], chosen["accuracy"], 6, "chosen")
        told += f" Chosen: {percent(chosen['coverage'])} answered, {percent(chosen['accuracy'])} right."
    return _svg(body, told, f"0 0 {WIDE} {HIGH}", "chart")


def scatter(points: Sequence[Sequence[float]], unit: str | None) -> Markup:
    """Predicted against true values; the line is a perfect answer."""
    flat = [v for p in points for v in p]
    ticks = _ticks(min(flat), max(flat))
    both = (min(*flat, ticks[0]), max(*flat, ticks[-1]))
    axes = _Axes(both, both)
    name = f" ({unit})" if unit else ""
    body = axes.frame((f"true{name}", f"predicted{name}"), (ticks, ticks), shares=False)
    body += axes.line([(both[0], both[0]), (both[1], both[1])], "ideal")
    body += "".join(axes.dot(x, y, 2.6, "speck") for x, y in points)
    label = f"Predicted against true values of {len(points)} rows; the nearer to the diagonal the better."
    return _svg(body, label, f"0 0 {WIDE} {HIGH}", "chart")


def histogram(edges: Sequence[float], counts: Sequence[int], unit: str | None) -> Markup:
    """How often which error occurs: predicted minus true."""
    ticks, heights = _ticks(edges[0], edges[-1]), _ticks(0.0, float(max(1, *counts)))
    axes = _Axes((min(edges[0], ticks[0]), max(edges[-1], ticks[-1])), (0.0, heights[-1]))
    name = f" ({unit})" if unit else ""
    body = axes.frame((f"error, predicted − true{name}", "rows"), (ticks, heights), shares=False)
    for k, n in enumerate(counts):
        x, right, y = axes.x(edges[k]), axes.x(edges[k + 1]), axes.y(n)
        size = f'width="{max(0.5, right - x - 1):.1f}" height="{axes.y(0) - y:.1f}"'
        body += f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="column"/>'
    if axes.x_range[0] < 0 < axes.x_range[1]:
        body += axes.line([(0, 0), (0, heights[-1])], "ideal")
    peak = max(range(len(counts)), key=lambda k: counts[k])
    most = f"{amount(edges[peak])} and {amount(edges[peak + 1], unit)}"
    label = f"Errors of {sum(counts)} rows, most of them between {most}."
    return _svg(body, label, f"0 0 {WIDE} {HIGH}", "chart")


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span the range."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, last + 1)]


def timeline(spans: Sequence[tuple[str, float]]) -> Markup:
    """One bar, one piece per stretch of the run."""
    total = sum(s for _, s in spans) or 1.0
    at, body = 0.0, ""
    for k, (name, seconds) in enumerate(spans):
        wide = 100.0 * seconds / total
        tip = f"{visible(name)}: {duration(seconds)}"
        body += f'<rect x="{at:.2f}%" y="0" width="{wide:.2f}%" height="22" class="piece p{k % 6}">'
        body += f"<title>{escape(tip)}</title></rect>"
        at += wide
    label = "Time spent: " + ", ".join(f"{name} {duration(s)}" for name, s in spans) + "."
    return _flat(body, label, 22, "time")
