"""Small charts as SVG, for a page that loads nothing: colours come from the page's style sheet, dark or light.

A plotting library would draw them too, at a second of import, some 30 MB and colours that cannot follow the page.
The tree is made with ElementTree, which escapes every text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Tree

from autotransfer.report.words import plain_text

if TYPE_CHECKING:
    from autotransfer.report.judged import Array, Calibration

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
"""Margins of the plot, in the chart's own units."""
POINTS = 1000
"""A scatter shows at most so many rows, evenly taken."""
COLOURS = 6
"""Lines that the style sheet has colours for: ``c0`` ... ``c5``."""


@dataclass(frozen=True)
class Line:
    """A named line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


class Plot:
    """Axes, and what is drawn between them.

    Args:
        title: what a reader who sees no chart is told.
        x: ends of the x axis.
        y: ends of the y axis.
        across: name of the x axis.
        upward: name of the y axis.
    """

    def __init__(
        self, title: str, x: tuple[float, float], y: tuple[float, float], across: str = "", upward: str = ""
    ) -> None:
        self.x, self.y = x, y
        box = f"0 0 {WIDTH} {HEIGHT}"
        self.root = Tree.Element("svg", {"viewBox": box, "role": "img", "class": "chart"})
        _text(Tree.SubElement(self.root, "title"), title)
        for value in ticks(*y):
            self.line((x[0], value), (x[1], value), "grid")
            self.label(LEFT - 6, self.down(value) + 4, shown(value), "end")
        for value in ticks(*x):
            self.label(self.right(value), HEIGHT - BOTTOM + 18, shown(value), "middle")
        self.line((x[0], y[0]), (x[1], y[0]), "axis")
        self.label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across, "middle", "name")
        turned = f"rotate(-90 14 {HEIGHT / 2 - 10:g})"
        self.label(14, HEIGHT / 2 - 10, upward, "middle", "name", turned)

    def right(self, value: float) -> float:
        """Return where a value lies across."""
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Return where a value lies from the top."""
        return TOP + (self.y[1] - value) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def label(self, x: float, y: float, text: str, anchor: str, kind: str = "tick", turned: str = "") -> None:
        """Write a text at a place of the chart."""
        given = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
        _text(Tree.SubElement(self.root, "text", given | ({"transform": turned} if turned else {})), text)

    def line(self, begin: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """Draw a straight line between two places of the plot."""
        places = {"x1": self.right(begin[0]), "y1": self.down(begin[1]), "x2": self.right(end[0])}
        places["y2"] = self.down(end[1])
        Tree.SubElement(self.root, "line", {n: f"{v:.1f}" for n, v in places.items()} | {"class": kind})

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through places of the plot; of a single one, a point."""
        places = " ".join(f"{self.right(a):.1f},{self.down(b):.1f}" for a, b in points)
        if len(points) > 1:
            Tree.SubElement(self.root, "polyline", {"points": places, "class": f"line {kind}"})
        for a, b in points if len(points) <= 12 else ():
            self.point(a, b, f"mark {kind}", 2.5)

    def point(self, a: float, b: float, kind: str, radius: float) -> None:
        """Draw a point."""
        place = {"cx": f"{self.right(a):.1f}", "cy": f"{self.down(b):.1f}", "r": f"{radius:g}", "class": kind}
        Tree.SubElement(self.root, "circle", place)

    def bar(self, low: float, high: float, top: float, told: str) -> None:
        """Draw a bar from the x axis up; ``told`` is what a reader who points at it is told."""
        left, up = self.right(low), self.down(top)
        place = {"x": left + 1, "y": up, "width": max(0.5, self.right(high) - left - 2), "height": self.down(0) - up}
        drawn = Tree.SubElement(self.root, "rect", {n: f"{v:.1f}" for n, v in place.items()} | {"class": "bar"})
        _text(Tree.SubElement(drawn, "title"), told)

    def svg(self) -> str:
        """Return the chart as a text that may stand in a page."""
        return Tree.tostring(self.root, encoding="unicode", short_empty_elements=False)


def curves(title: str, lines: Sequence[Line], upward: str) -> str:
    """Return lines over epochs; the strong ones lie on top. Line i has the colour ``c{i}``."""
    xs = [a for one in lines for a, _ in one.points]
    ys = [b for one in lines for _, b in one.points]
    plot = Plot(title, (0.0, max(xs)), spread(ys), "epochs", upward)
    for at, one in sorted(enumerate(lines), key=lambda pair: pair[1].strong):
        plot.path(one.points, f"c{at % COLOURS}{' strong' if one.strong else ''}")
    return plot.svg()


def reliability(found: Calibration) -> str:
    """Return a reliability diagram: how often answers of each probability came true, beside the diagonal."""
    plot = Plot("How often answers of each probability came true", (0, 1), (0, 1), "probability", "came true")
    for one in found.bins:
        told = f"{one.low:.0%} to {one.high:.0%}: {one.count:,}, mean {one.chance:.3f}, came true {one.right:.3f}"
        plot.bar(one.low, one.high, one.right, told)
    plot.line((0, 0), (1, 1), "ideal")
    for one in found.bins:
        plot.point(one.chance, one.right, "mark c1", 3.5)
    return plot.svg()


def against(actual: Array, predicted: Array) -> str:
    """Return predicted against actual numbers, beside the diagonal."""
    both = [*actual.tolist(), *predicted.tolist()]
    ends = spread(both)
    plot = Plot("Predicted against actual values", ends, ends, "actual", "predicted")
    plot.line((ends[0], ends[0]), (ends[1], ends[1]), "ideal")
    for a, b in _some(list(zip(actual.tolist(), predicted.tolist(), strict=True))):
        plot.point(a, b, "dot", 2.5)
    return plot.svg()


def residuals(actual: Array, predicted: Array) -> str:
    """Return what was predicted too much (above 0) or too little, over the predicted value."""
    rest = predicted - actual
    high = max(float(abs(rest).max()), 1e-12) * 1.05
    plot = Plot("Residuals", spread(predicted.tolist()), (-high, high), "predicted", "predicted less actual")
    plot.line((plot.x[0], 0), (plot.x[1], 0), "ideal")
    for a, b in _some(list(zip(predicted.tolist(), rest.tolist(), strict=True))):
        plot.point(a, b, "dot", 2.5)
    return plot.svg()


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds these values, with a little room."""
    known = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(known), max(known)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values between two ends: multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(-3, 42)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0, 40.0])
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def shown(value: float) -> str:
    """Return a tick's number."""
    return f"{value:.6g}"


def _some(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points[:: -(-len(points) // POINTS)] if len(points) > POINTS else points


def _text(node: Tree.Element, text: str) -> None:
    node.text = plain_text(text)
