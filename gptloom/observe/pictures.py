"""The loss curve as a PNG, drawn by matplotlib (the extra ``plots``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.observe.curves import Curves, Expected, smooth, visible_range
from gptloom.observe.numbers import human_count

INK, FAINT, GRID = "#26292e", "#80868f", "#e6e8eb"
TRAIN, VALID, EXPECTED = "#3b6fb6", "#d1603d", "#5a9e6f"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches. Raises UserError without matplotlib."""
    if not can_draw():
        what = "pictures need matplotlib, which is not here"
        raise UserError(Problem(what, mend='pip install "gptloom[plots]"'))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # no window system, no global state
    return figure


def draw_loss(events: Sequence[dict[str, Any]], path: Path, *, title: str, band: Sequence[Expected] = ()) -> None:
    """Draws training loss (as it was and smoothed), validation loss and learning rate over tokens into ``path``.

    ``band`` shades the validation loss that the run's recipe expects. Raises UserError without matplotlib.
    """
    figure = new_figure(9, 5.6)
    curves = Curves.of(events)
    loss, lr = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_curves(loss, curves, band)
    loss.set_title(title, loc="left", fontsize=12, color=INK, pad=12)
    loss.set_ylabel("loss, nats a token")
    lr.plot(*_columns(curves.lr), color=FAINT, linewidth=1.4)
    lr.set_ylabel("learning rate")
    lr.set_xlabel("tokens")
    lr.set_ylim(bottom=0)
    lr.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    lr.xaxis.set_major_formatter(lambda tokens, _: human_count(tokens))
    for axes in (loss, lr):
        plain_style(axes)
    lr.set_xlim(left=0)
    save(figure, path)


def _draw_curves(axes: Any, curves: Curves, band: Sequence[Expected]) -> None:
    if len(band) == 1:
        [(tokens, low, high)] = band
        middle = (low + high) / 2
        axes.errorbar(
            [tokens],
            [middle],
            yerr=(high - low) / 2,
            color=EXPECTED,
            capsize=4,
            linewidth=2,
            label="expected",
            zorder=4,
        )
    elif band:
        tokens_of, low_of, high_of = zip(*band, strict=True)
        axes.fill_between(tokens_of, low_of, high_of, color=EXPECTED, alpha=0.18, linewidth=0, label="expected")
    smoothed = smooth(curves.train_loss)
    axes.plot(*_columns(curves.train_loss), color=TRAIN, alpha=0.25, linewidth=0.8)
    axes.plot(*_columns(smoothed), color=TRAIN, linewidth=1.8, label="training")
    axes.plot(*_columns(curves.valid_loss), "o-", color=VALID, linewidth=1.2, markersize=4, label="validation")
    edges = [(tokens, edge) for tokens, low, high in band for edge in (low, high)]
    axes.set_ylim(*visible_range(curves.train_loss, curves.valid_loss, edges))
    if curves.valid_loss:
        tokens, value = curves.valid_loss[-1]
        axes.annotate(
            f"{value:.3f}", (tokens, value), xytext=(0, 9), textcoords="offset points", color=VALID, ha="right"
        )
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def plain_style(axes: Any) -> None:
    """No frame, no ticks, faint lines behind the curves."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, labelcolor=FAINT, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(FAINT)
        label.set_fontsize(9)


def save(figure: Any, path: Path) -> None:
    """Writes the figure as a PNG, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png")
    partial.replace(path)
