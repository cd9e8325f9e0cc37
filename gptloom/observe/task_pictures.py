"""Pictures of fine-tuned models as PNG, drawn by matplotlib (the extra ``plots``): confusions, and methods compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.observe.glossary import written
from gptloom.observe.pictures import EXPECTED, GRID, INK, TRAIN, new_figure, plain_style, save

MOST_COUNTS = 20
"""In a matrix of more classes there is no room for numbers."""


@dataclass(frozen=True)
class Bar:
    """One method or model: its name, its score, and the 95 % interval of that, where one is known."""

    name: str
    value: float
    interval: tuple[float, float] | None


def draw_confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path, *, title: str) -> None:
    """Draws how often each class (row) was answered with each (column), the shade by the share of its row.

    Raises UserError without matplotlib.
    """
    side = min(12.0, 3.2 + 0.45 * len(labels))
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= MOST_COUNTS:
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                color = "white" if shares[row][column] > 0.55 else INK
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, labels)
    axes.set_xlabel("given answer")
    axes.set_ylabel("right answer")
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=12)
    plain_style(axes)
    axes.grid(False)
    save(figure, path)


def draw_methods(bars: Sequence[Bar], path: Path, *, metric: str, baseline: float | None, title: str) -> None:
    """Draws the scores below each other, each with its interval, and the baseline as a dotted line.

    Raises UserError without matplotlib.
    """
    figure = new_figure(8, 1.6 + 0.5 * len(bars))
    axes = figure.subplots()
    for place, bar in enumerate(bars):
        if bar.interval is not None:
            axes.plot(bar.interval, (place, place), color=TRAIN, linewidth=2.2, solid_capstyle="butt")
        axes.plot(bar.value, place, "o", color=TRAIN, markersize=7)
        axes.annotate(
            written(metric, bar.value),
            (bar.value, place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=INK,
        )
    if baseline is not None:
        axes.axvline(baseline, color=EXPECTED, linestyle=":", linewidth=1.6)
        label = {"xytext": (4, 0), "textcoords": "offset points", "color": EXPECTED, "fontsize": 9, "va": "top"}
        axes.annotate("baseline", (baseline, -0.7), **label)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.7)
    axes.margins(x=0.08)
    axes.set_xlabel(metric)
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=12)
    plain_style(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    _in_percent(axes, metric)
    save(figure, path)


def _in_percent(axes: Any, metric: str) -> None:
    if written(metric, 0.5).endswith("%"):
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}".replace("%", " %"))
