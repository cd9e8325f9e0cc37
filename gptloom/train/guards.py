"""Guards: an update that would harm the model is not made, and a run that keeps failing stops with a diagnosis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Guard:
    """Watches loss and gradient norm of every step; everything it remembers is saved with a checkpoint.

    A step is refused when either is not finite, or when the loss lies more than ``spike`` standard deviations above
    its running mean (time constant ``window`` steps, after ``window`` steps of settling; llm.c's outlier rule).
    """

    spike: float = 7.0
    window: int = 100
    patience: int = 10  # refused steps in a row that end the run
    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0
    refused_in_a_row: int = 0
    recent: list[tuple[int, float, float]] = field(default_factory=list)  # (step, loss, gradient norm), last ten

    def refuse(self, step: int, loss: float, norm: float) -> str | None:
        """Why the update of ``step`` must not be made, or None when all is well."""
        self.recent = [*self.recent, (step, loss, norm)][-10:]
        reason = self._reason(loss, norm)
        if reason is None:
            self.refused_in_a_row = 0
            self._learn(loss)
        else:
            self.refused_in_a_row += 1
        return reason

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        deviation = math.sqrt(self.variance)
        if self.seen >= self.window and deviation > 0 and loss - self.mean > self.spike * deviation:
            distance = (loss - self.mean) / deviation
            return f"the loss {loss:.3f} is {distance:.1f} standard deviations above its mean {self.mean:.3f}"
        return None

    def _learn(self, loss: float) -> None:
        self.seen += 1
        rate = max(1 / self.seen, 1 / self.window)
        difference = loss - self.mean
        self.mean += rate * difference
        self.variance = (1 - rate) * (self.variance + rate * difference * difference)

    @property
    def exhausted(self) -> bool:
        return self.refused_in_a_row >= self.patience

    def diagnosis(self, lr: float) -> str:
        """What to tell the user when the run is stopped."""
        rows = "\n".join(
            f"  step {step}: loss {loss:.4g}, gradient norm {norm:.4g}" for step, loss, norm in self.recent
        )
        return (
            f"{self.refused_in_a_row} updates in a row were refused (learning rate {lr:.2e}); the last steps:\n{rows}\n"
            "  try, in this order: a third of the learning rate (--lr), a longer --warmup, --precision fp32"
        )

    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint; losses as text, since JSON has no NaN."""
        numbers = {name: getattr(self, name) for name in ("mean", "variance", "seen", "refused_in_a_row")}
        return {**numbers, "recent": [[step, repr(loss), repr(norm)] for step, loss, norm in self.recent]}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        for name, value in state.items():
            setattr(self, name, value)
        self.recent = [(step, float(loss), float(norm)) for step, loss, norm in state["recent"]]
