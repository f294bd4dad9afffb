"""Charts as SVG: small, without a script, every text in them escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autotransfer.report.judged import Array, Calibration

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")
"""Of lines, in their order."""
_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 42


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """The plane of a chart: ranges of values, and what they are."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    y_name: str

    def across(self, value: float) -> float:
        """Return where a value lies from left to right."""
        low, high = self.x
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(self, value: float) -> float:
        """Return where a value lies from top to bottom."""
        low, high = self.y
        return round(_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)


def curves(lines: Sequence[Line], x_name: str, y_name: str) -> Markup:
    """Return curves in one plane; colours are those of :data:`COLOURS`, in order."""
    every = [p for line in lines for p in line.points if math.isfinite(p[1])]
    axes = Axes(span([x for x, _ in every], zero=True), span([y for _, y in every]), x_name, y_name)
    parts = []
    for line, colour in zip(lines, COLOURS, strict=False):
        seen = [(axes.across(x), axes.down(y)) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{x},{y}" for x, y in seen)
        drawn = Markup('<polyline points="{}" stroke="{}"><title>{}</title></polyline>')
        parts.append(drawn.format(path, colour, line.name))
        parts += [Markup('<circle cx="{}" cy="{}" r="2.5" fill="{}"/>').format(x, y, colour) for x, y in seen]
    return _chart(axes, parts)


def scatter(x: Array, y: Array, x_name: str, y_name: str, *, diagonal: bool) -> Markup:
    """Return points, over the diagonal with equal ranges, or over the line of zero."""
    both = span([*x.tolist(), *y.tolist()]) if diagonal else None
    axes = Axes(both or span(x.tolist()), both or span([*y.tolist(), 0.0]), x_name, y_name)
    ends = (axes.y if diagonal else (0.0, 0.0)) if both is None else both
    parts = [_line(axes.across(axes.x[0]), axes.down(ends[0]), axes.across(axes.x[1]), axes.down(ends[1]), "guide")]
    parts += [
        Markup('<circle class="point" cx="{}" cy="{}" r="3"/>').format(axes.across(a), axes.down(b))
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]
    return _chart(axes, parts)


def reliability(found: Calibration, x_name: str, y_name: str) -> Markup:
    """Return a reliability diagram: a bar a bin as high as its share of right answers, over the diagonal."""
    axes, parts = Axes((0.0, 1.0), (0.0, 1.0), x_name, y_name), []
    bins = len(found.counts)
    for i, (count, share) in enumerate(zip(found.counts.tolist(), found.accuracy.tolist(), strict=True)):
        if count:
            left, right, top = axes.across(i / bins), axes.across((i + 1) / bins), axes.down(share)
            told = f"{i / bins:.1f} to {(i + 1) / bins:.1f}: {count:,} answers, mean {found.confidence[i]:.3f}"
            parts.append(
                Markup(
                    '<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}, right {:.3f}</title></rect>'
                ).format(left + 1, top, round(right - left - 2, 1), round(axes.down(0) - top, 1), told, share)
            )
    parts.append(_line(axes.across(0), axes.down(0), axes.across(1), axes.down(1), "guide"))
    return _chart(axes, parts)


def span(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """Return a range that holds finite values with a little room, never empty; ``zero``: it begins there.

    >>> span([0.0, 10.0]), span([3.0]), span([]), span([1.0, 2.0], zero=True)
    ((-0.5, 10.5), (2.5, 3.5), (0.0, 1.0), (0.0, 2.1))
    """
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return 0.0, 1.0
    low, high = (0.0 if zero else min(known)), max(known)
    room = 0.05 * (high - low) or max(0.5, 0.05 * abs(high))
    return (low if zero else low - room), high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values within a range: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 10), ticks(0.61, 0.93)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.7, 0.8, 0.9])
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, digits) for i in range(first, last + 1)]


def _chart(axes: Axes, parts: Iterable[Markup]) -> Markup:
    frame = [_line(_LEFT, axes.down(t), _WIDTH - _RIGHT, axes.down(t), "grid") for t in ticks(*axes.y)]
    frame += [_text(_LEFT - 6, axes.down(t) + 4, "end", _number(t)) for t in ticks(*axes.y)]
    frame += [_text(axes.across(t), _HEIGHT - _BOTTOM + 16, "middle", _number(t)) for t in ticks(*axes.x)]
    frame.append(_line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "axis"))
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    names = [
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "middle", axes.x_name),
        Markup('<text x="{}" y="{}" text-anchor="middle" transform="rotate(-90 {} {})">{}</text>').format(
            12, middle, 12, middle, axes.y_name
        ),
    ]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, f"{axes.y_name} by {axes.x_name}", Markup("").join([*frame, *parts, *names])
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _number(value: float) -> str:
    return f"{value:.6g}"
