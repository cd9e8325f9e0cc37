"""Is this loss normal? A recipe may say what to expect; the run says whether it is inside, and if not, the usual cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptloom.observe.curves import Expected
from gptloom.observe.numbers import human_count
from gptloom.observe.terminal import say
from gptloom.train.run import Run


def expected(band: Sequence[Expected], tokens: int) -> tuple[float, float] | None:
    """The lowest and highest loss at ``tokens``, between rows by a straight line; None outside the rows (1 % allowed)."""
    for (t0, low0, high0), (t1, low1, high1) in zip(band, [*band[1:], band[-1]], strict=True):
        if t0 * 0.99 <= tokens <= t1 * 1.01:
            share = 0.0 if t1 == t0 else min(1.0, max(0.0, (tokens - t0) / (t1 - t0)))
            return low0 + share * (low1 - low0), high0 + share * (high1 - high0)
    return None


class Band:
    """A hook: compares every evaluation with the recipe's band and says at the end how it went."""

    def __init__(self, band: Sequence[Expected], recipe: str) -> None:
        self.band, self.recipe = sorted(band), recipe
        self.verdict = ""

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if event["type"] == "evaluate":
            self.verdict = self._compare(event["valid_loss"], run.state.tokens)
        elif event["type"] == "closing" and self.verdict:
            say(self.verdict)

    def _compare(self, loss: float, tokens: int) -> str:
        bounds = expected(self.band, tokens)
        if bounds is None:
            return ""
        low, high = bounds
        where = f"validation loss {loss:.3f} after {human_count(tokens)} tokens"
        band = f"what the recipe {self.recipe} expects ({low:.2f} to {high:.2f})"
        if loss > high:
            return f"{where} is above {band}; the usual cause is another text, or options changed from the recipe"
        if loss < low:
            return f"{where} is below {band}; the usual cause is validation text that also stands in the training text"
        return f"{where} is inside {band}"
