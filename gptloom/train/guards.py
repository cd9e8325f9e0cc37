"""The guard: looks at the loss and the gradient norm of every step before its update is made, and says what to do.

It only judges; ``rollback`` acts on what it says, ``diagnosis`` tells the user why a run was stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["fine", "refused", "repeated", "diverged"]


class Verdict(NamedTuple):
    """What the guard makes of a step.

    ``refused``: its update must not be made. ``repeated``: nor must it, and leaving out single updates does not help.
    ``diverged``: the training as a whole goes wrong. The update is made only when the step is ``fine``.
    """

    kind: Kind = "fine"
    reason: str = ""


FINE = Verdict()


@dataclass
class Guard:
    """Judges every step; everything it remembers is saved with a checkpoint.

    A step is refused when loss or gradient norm is not finite, or when the loss lies more than ``spike`` standard
    deviations above its running mean (time constant ``window`` steps, after ``window`` steps of settling; llm.c's
    outlier rule). ``patience`` refusals in a row are ``repeated`` trouble: the weights stood still meanwhile, so either
    they are harmed or the text is bad for long.

    A loss can also rise too slowly to be a spike. The training has diverged when the running mean stays more than
    ``rise`` nats, and more than one standard deviation of the loss, above its lowest value for ``window`` steps. One nat
    a token is e times the perplexity: a change of text moves a trained model by less, or for less long, and what batches
    differ by is far less once averaged over a hundred. The same holds for a mean that stays as far above ``chance``, the
    loss of knowing nothing (ln V for the next of V tokens), where the caller knows it: a training that is hurt from its
    first steps on has no good mean to compare with.
    """

    spike: float = 7.0
    window: int = 100
    patience: int = 10
    rise: float = 1.0
    chance: float | None = None
    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0
    best: float | None = None  # lowest running mean once settled
    high_in_a_row: int = 0  # steps whose running mean was too far above best or chance
    refused_in_a_row: int = 0
    first_refused: int | None = None  # of those in a row; the first update is that of step 0
    recent: list[tuple[int, float, float]] = field(default_factory=list)  # (step, loss, gradient norm), last ten

    def judge(self, step: int, loss: float, norm: float) -> Verdict:
        """The verdict on ``step`` (the first is 0), and remembers it. Equal numbers give equal verdicts."""
        self.recent = [*self.recent, (step, loss, norm)][-10:]
        reason = self._refusal(loss, norm)
        if reason is not None:
            self.first_refused = step if self.first_refused is None else self.first_refused
            self.refused_in_a_row += 1
            return Verdict("refused" if self.refused_in_a_row < self.patience else "repeated", reason)
        self.refused_in_a_row, self.first_refused = 0, None
        self._learn(loss)
        reason = self._divergence()
        return FINE if reason is None else Verdict("diverged", reason)

    def _refusal(self, loss: float, norm: float) -> str | None:
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
        if self.seen >= self.window:
            self.best = self.mean if self.best is None else min(self.best, self.mean)

    def _divergence(self) -> str | None:
        margin = max(self.rise, math.sqrt(self.variance))
        levels = {"its best": self.best, "that of knowing nothing": self.chance}
        passed = [f"{name}, {at:.3f}," for name, at in levels.items() if at is not None and self.mean > at + margin]
        self.high_in_a_row = self.high_in_a_row + 1 if passed else 0
        if self.high_in_a_row < self.window:
            return None
        return f"the mean loss {self.mean:.3f} has been far above {passed[-1]} for {self.window} steps"

    def state(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint; losses as text, since JSON has no NaN."""
        names = ("mean", "variance", "seen", "best", "high_in_a_row", "refused_in_a_row", "first_refused")
        recent = [[step, repr(loss), repr(norm)] for step, loss, norm in self.recent]
        return {**{name: getattr(self, name) for name in names}, "recent": recent}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``; what an older checkpoint did not know yet begins anew."""
        fresh = Guard().state()
        for name, value in {**fresh, **{name: value for name, value in state.items() if name in fresh}}.items():
            setattr(self, name, value)
        self.recent = [(step, float(loss), float(norm)) for step, loss, norm in state["recent"]]
