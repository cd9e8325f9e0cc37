"""Line and bar charts as SVG text for the HTML report; colours come from the page's style sheet, by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from gptloom.config.excerpt import beginning
from gptloom.observe.curves import Expected, Point
from gptloom.observe.numbers import human_count

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 26
"""Room around the plotting area for the labels of the axes."""
ROW = 24
"""From one bar to the next, in CSS pixels."""
LETTER, LONGEST_LABEL = 7, 40
"""About the width of a letter of a bar's label in CSS pixels; and after how many letters the label is cut off."""


@dataclass(frozen=True)
class Line:
    """One curve: its points, its name in the legend, its CSS class, and whether each point is a dot with a tooltip."""

    points: Sequence[Point]
    name: str
    css: str
    dots: bool = False


def line_chart(
    lines: Sequence[Line],
    label: str,
    y_range: tuple[float, float],
    *,
    width: int = 720,
    height: int = 300,
    band: Sequence[Expected] = (),
) -> str:
    """An ``<svg>`` of the lines over tokens, with gridlines and labels; ``label`` says for a screen reader what it is.

    ``width`` and ``height`` are in CSS pixels, as are the letters. What lies outside ``y_range`` is cut off. A band of
    one point is drawn as a bar.
    """
    right = max([x for line in lines for x, _ in line.points] + [tokens for tokens, _, _ in band], default=0.0)
    right = 1.015 * (right or 1.0)  # the last dot is not cut in half
    place = _scale(right, y_range, width, height)
    clip = "clip-" + "".join(letter if letter.isalnum() else "-" for letter in label)
    inner = f'x="{LEFT}" y="{TOP}" width="{width - LEFT - RIGHT}" height="{height - TOP - BOTTOM}"'
    return "\n".join(
        [
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">',
            f'<clipPath id="{clip}"><rect {inner}/></clipPath>',
            *_axes(right, y_range, width, height, place),
            f'<g clip-path="url(#{clip})">',
            _band(band, place),
            *(_curve(line, place) for line in lines),
            "</g></svg>",
        ]
    )


def legend(lines: Sequence[Line], band: bool = False) -> str:
    """The names of the lines with their colours, as HTML."""
    named = [(line.css, line.name) for line in lines if line.name] + ([("band", "expected")] if band else [])
    return (
        '<p class="legend">' + "".join(f'<span class="key {css}">{escape(name)}</span>' for css, name in named) + "</p>"
    )


@dataclass(frozen=True)
class Bar:
    """A horizontal bar of pieces, each a CSS class (its name too) and a length; labels left and right of it."""

    label: str
    pieces: Sequence[tuple[str, float]]
    total: str


def bar_chart(bars: Sequence[Bar], label: str, *, width: int = 720) -> str:
    """An ``<svg>`` of bars below each other, the longest as wide as there is room beside the labels."""
    left = 16 + LETTER * min(LONGEST_LABEL, max(len(bar.label) for bar in bars))
    longest = max(sum(length for _, length in bar.pieces) for bar in bars)
    scale = (width - left - 70) / longest if longest else 0.0
    parts = [f'<svg viewBox="0 0 {width} {ROW * len(bars)}" role="img" aria-label="{escape(label)}">']
    for number, bar in enumerate(bars):
        x, y = float(left), ROW * number
        shown = beginning(bar.label, LONGEST_LABEL)
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(shown)}</text>')
        for name, length in bar.pieces:
            title = f"<title>{escape(bar.label)}: {escape(name)} {seconds(length)}</title>"
            wide = length * scale
            parts.append(
                f'<rect class="piece {name}" x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="16">{title}</rect>'
            )
            x += wide
        parts.append(f'<text class="tick" x="{x + 8:.1f}" y="{y + 16}">{escape(bar.total)}</text>')
    return "\n".join([*parts, "</svg>"])


def seconds(value: float) -> str:
    """Three figures: ``1.23 s``, ``412 ms``."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within the range, about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.8 * rough)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


Place = Callable[[float, float], tuple[float, float]]


def _scale(right: float, y_range: tuple[float, float], width: int, height: int) -> Place:
    low, high = y_range
    across, up = (width - LEFT - RIGHT) / right, (height - TOP - BOTTOM) / (high - low)
    return lambda x, y: (LEFT + x * across, height - BOTTOM - (y - low) * up)


def _axes(right: float, y_range: tuple[float, float], width: int, height: int, place: Place) -> list[str]:
    parts = []
    for y in ticks(*y_range, height // 50):
        _, row = place(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{row + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in ticks(0, right, width // 85):
        column, _ = place(x, 0)
        anchor = "end" if column > width - 18 else "middle"
        label = human_count(x)
        parts.append(f'<text class="tick" x="{column:.1f}" y="{height - 8}" text-anchor="{anchor}">{label}</text>')
    return parts


def _curve(line: Line, place: Place) -> str:
    placed = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    drawn = f'<polyline class="line {line.css}" points="{path}"/>'
    if line.dots:
        drawn += "".join(
            f'<circle class="dot {line.css}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">'
            f"<title>{human_count(tokens)} tokens: {value:.4g}</title></circle>"
            for (x, y), (tokens, value) in zip(placed, line.points, strict=True)
        )
    return drawn


def _band(band: Sequence[Expected], place: Place) -> str:
    if not band:
        return ""
    half = 4.0 if len(band) == 1 else 0.0
    upper = [place(tokens, high) for tokens, _, high in band]
    lower = [place(tokens, low) for tokens, low, _ in reversed(band)]
    corners = [(x - half, y) for x, y in upper] + [(x + half, y) for x, y in upper if half]
    corners += [(x + half, y) for x, y in lower] + [(x - half, y) for x, y in lower if half]
    return f'<polygon class="band" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return human_count(value)
    if 0 < abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"
