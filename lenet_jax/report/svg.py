"""Small charts as SVG text that takes its colours from the page: they suit light and dark."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

Number: TypeAlias = float | int

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # pixels around the plot


class Line(NamedTuple):
    """A curve; NaN leaves a gap. `style` is a class of the page's style sheet."""

    style: str
    x: Sequence[Number]
    y: Sequence[Number]


class Axis(NamedTuple):
    """A scale from `low` to `high`, with ticks, on the numbers that `warp` makes of values."""

    low: Number
    high: Number
    ticks: Sequence[tuple[Number, str]]
    name: str
    warp: Callable[[Number], Number] = float

    def place(self, value: Number) -> Number:
        """Where a value is, 0 to 1."""
        low, high = self.warp(self.low), self.warp(self.high)
        return (self.warp(value) - low) / (high - low)


def linear(low: Number, high: Number, name: str, most: int = 6, least: Number = 0) -> Axis:
    """An axis with at most `most` ticks at round numbers, which are `least` apart or more."""
    high = high if high > low else low + 1
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * m for m in (1, 2, 5, 10, 20) if (high - low) / (step * m) <= most)
    step = max(step, least)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    return Axis(low, high, [(tick, f"{tick:.10g}".replace("-", "−")) for tick in ticks], name)


def logarithmic(
    low: Number, high: Number, name: str, label: Callable[[Number], str] = "{:g}".format
) -> Axis:
    """An axis of positive numbers, with a little air around them and ticks at round ones."""
    low, high = 0.8 * low, 1.25 * high
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    ticks = [(mark, label(mark)) for mark in marks if low <= mark <= high]
    return Axis(low, high, ticks, name, math.log10)


def line_chart(
    title: str, x: Axis, y: Axis, lines: Sequence[Line], mark: Number | None = None
) -> str:
    """Curves over x.

    Args:
      title: what a person who does not see it should know.
      x: the horizontal axis.
      y: the vertical axis.
      lines: the curves; values beyond the axis are drawn at its end.
      mark: where to draw a vertical line.
    """
    parts = []
    if mark is not None:
        parts.append(_line("mark", _x(x, mark), TOP, _x(x, mark), HEIGHT - BOTTOM))
    for line in lines:
        points = [
            (_x(x, a), _y(y, b)) if math.isfinite(b) else None
            for a, b in zip(line.x, line.y, strict=True)
        ]
        moves = [
            f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}"
            for before, point in zip([None, *points], points, strict=False)
            if point
        ]
        parts.append(f'<path class="line {escape(line.style)}" d="{"".join(moves)}"/>')
        if len(line.x) <= 40:
            dots = (f'<circle cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="2.2"/>' for p in points if p)
            parts.append(f'<g class="dots {escape(line.style)}">{"".join(dots)}</g>')
    return _frame(title, x, y, parts)


def scatter(title: str, x: Axis, y: Axis, points: Sequence[tuple[Number, Number, Number]]) -> str:
    """Discs at (x, y), with their radius in pixels, over the line where both are equal."""
    parts = [_line("mark", _x(x, x.low), _y(y, y.low), _x(x, x.high), _y(y, y.high))]
    parts += [
        f'<circle class="disc" cx="{_x(x, a):.1f}" cy="{_y(y, b):.1f}" r="{radius:.1f}"/>'
        for a, b, radius in points
    ]
    return _frame(title, x, y, parts)


def histogram(title: str, values: Float[np.ndarray, "..."], name: str) -> str:
    """Counts of values in 32 bins, their height the logarithm of the count."""
    finite = values[np.isfinite(values)].astype(np.float64)
    counts, edges = np.histogram(finite, 32)
    x = linear(float(edges[0]), float(edges[-1]), name, most=5)
    highest = max(1, math.ceil(math.log10(max(counts.max(), 1) + 1)))
    powers = range(0, highest + 1, 1 + highest // 4)
    y = Axis(0, highest, [(power, f"{10**power:,}") for power in powers], "count")
    bars = []
    for n, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if n:
            top, wide = _y(y, math.log10(n) + 0.05), _x(x, b) - _x(x, a)  # 1 is seen too
            place = f'x="{_x(x, a):.1f}" y="{top:.1f}" width="{wide:.1f}"'
            bars.append(f'<rect {place} height="{HEIGHT - BOTTOM - top:.1f}"/>')
    return _frame(title, x, y, [f'<g class="heap">{"".join(bars)}</g>'])


def _frame(title: str, x: Axis, y: Axis, parts: Sequence[str]) -> str:
    bottom = HEIGHT - BOTTOM
    lines = []
    for tick, label in x.ticks:
        lines.append(_text(_x(x, tick), bottom + 15, label, "middle"))
    for tick, label in y.ticks:
        lines.append(_line("rule", LEFT, _y(y, tick), WIDTH - RIGHT, _y(y, tick)))
        lines.append(_text(LEFT - 7, _y(y, tick) + 3.5, label, "end"))
    lines.append(_line("axis", LEFT, bottom, WIDTH - RIGHT, bottom))
    lines.append(_text(WIDTH - RIGHT, HEIGHT - 4, x.name, "end"))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(lines)}{''.join(parts)}</svg>"
    )


def _x(axis: Axis, value: Number) -> Number:
    return LEFT + min(max(axis.place(value), 0), 1) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: Number) -> Number:
    clipped = min(max(value, min(axis.low, axis.high)), max(axis.low, axis.high))
    return HEIGHT - BOTTOM - axis.place(clipped) * (HEIGHT - TOP - BOTTOM)


def _line(style: str, x1: Number, y1: Number, x2: Number, y2: Number) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: Number, y: Number, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
