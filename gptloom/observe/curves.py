"""Curves out of events: points over tokens, smoothed and thinned for drawing. Plain Python, no drawing here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
Point = tuple[float, float]
Expected = tuple[float, float, float]
"""After so many tokens: the lowest and the highest value expected."""


@dataclass(frozen=True)
class Curves:
    """What a training did over its tokens, each a list of (tokens so far, value)."""

    train_loss: list[Point]
    valid_loss: list[Point]
    bits_per_byte: list[Point]
    lr: list[Point]
    grad_norm: list[Point]
    tokens_per_second: list[Point]
    metric: list[Point]
    """Of a fine-tuning: the metric by which its best step is chosen."""
    metric_name: str | None

    @classmethod
    def of(cls, events: Sequence[Event]) -> Curves:
        train = [event for event in events if event["type"] == "train"]
        evaluate = [event for event in events if event["type"] == "evaluate"]
        clock = TokenClock(events)
        metric = next((event["metric"] for event in reversed(evaluate) if event.get("metric")), None)
        measured = [{"step": event["step"], **event["metrics"]} for event in evaluate if event.get("metrics")]
        return cls(
            train_loss=_points([{"step": event["step"], "loss": shown_loss(event)} for event in train], "loss", clock),
            valid_loss=_points(evaluate, "valid_loss", clock),
            bits_per_byte=_points(evaluate, "bits_per_byte", clock),
            lr=_points(train, "lr", clock),
            grad_norm=_points(train, "grad_norm", clock),
            tokens_per_second=_points(train, "tokens_per_second", clock),
            metric=_points(measured, metric, clock) if metric else [],
            metric_name=metric,
        )


def shown_loss(event: Event) -> float | None:
    """The training loss that a validation loss is held against: of a fine-tuning the task's part alone."""
    loss: float | None = (event.get("losses") or {}).get("task", event.get("loss"))
    return loss


class TokenClock:
    """Tokens trained on after a step, from the ``train`` events around it.

    Between two of them it is a straight line, outside them ``tokens_per_step`` of the last ``start`` is counted on.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        known = {event["step"]: float(event["tokens"]) for event in events if event.get("tokens") is not None}
        self._steps = sorted({0, *known})
        self._tokens = [known.get(step, 0.0) for step in self._steps]
        rates = [event["tokens_per_step"] for event in events if event.get("tokens_per_step")]
        self._rate = float(rates[-1]) if rates else 1.0

    def __call__(self, step: int) -> float:
        right = bisect_left(self._steps, step)
        if right == len(self._steps):
            return self._tokens[-1] + (step - self._steps[-1]) * self._rate
        if self._steps[right] == step:
            return self._tokens[right]
        left = right - 1
        share = (step - self._steps[left]) / (self._steps[right] - self._steps[left])
        return self._tokens[left] + share * (self._tokens[right] - self._tokens[left])


def _points(events: Iterable[Event], key: str, clock: TokenClock) -> list[Point]:
    return [(clock(event["step"]), float(event[key])) for event in events if event.get(key) is not None]


def smooth(points: Sequence[Point], share: float = 0.02) -> list[Point]:
    """A moving average over about ``share`` of the points, at the steep beginning over a tenth of those so far."""
    average, smoothed = 0.0, []
    for count, (x, y) in enumerate(points, start=1):
        window = max(1.0, min(share * len(points), 0.1 * count))
        average += (y - average) / window
        smoothed.append((x, average))
    return smoothed


def thin(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most about ``limit`` points: of each run of neighbours the lowest and the highest, so that spikes stay."""
    if len(points) <= limit:
        return list(points)
    size = -(-2 * len(points) // limit)
    kept: list[Point] = []
    for begin in range(0, len(points), size):
        bucket = points[begin : begin + size]
        extremes = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept.extend(sorted(extremes))
    return kept


def visible_range(*curves: Sequence[Point]) -> tuple[float, float]:
    """The y range that shows the curves: the highest 2 % (the first steps, spikes) may leave the picture at the top."""
    values = sorted(y for curve in curves for _, y in curve)
    if not values:
        return 0.0, 1.0
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def expected_band(config: dict[str, Any]) -> list[Expected]:
    """The validation loss a recipe expects, ``band: [[tokens, lowest, highest], ...]`` of config.yaml; empty without."""
    return sorted((float(tokens), float(low), float(high)) for tokens, low, high in config.get("band") or [])
