"""The hooks every training uses: evaluating, saving, stopping early. Each looks at ``train`` events and acts by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from gptloom.train.checkpoint import prune
from gptloom.train.disk import unless_full
from gptloom.train.rollback import checkpoints_before_trouble
from gptloom.train.run import Run
from gptloom.train.saver import Saver
from gptloom.train.validation import Validation

Event = dict[str, Any]


def due(event: Event, run: Run, every: int) -> bool:
    """Whether a hook that works every so many steps, and after the last one, should work now."""
    return event["type"] == "train" and (run.state.step % every == 0 or run.state.step == run.settings.steps)


class Evaluate:
    """Validation every ``every`` steps and at the end; keeps the best step and how many evaluations came since."""

    def __init__(self, validate: Callable[[Run], Validation], every: int) -> None:
        self.validate, self.every = validate, every

    def __call__(self, event: Event, run: Run) -> None:
        if due(event, run, self.every):
            self.now(run)

    def now(self, run: Run) -> None:
        started = time.perf_counter()
        result = self.validate(run)
        state = run.state
        finite = math.isfinite(result.loss)
        state.valid_loss, state.bits_per_byte = (result.loss, result.bits_per_byte) if finite else (None, None)
        if finite and (state.best_value is None or result.loss < state.best_value):
            state.best_step, state.best_value, state.stale_evaluations = state.step, result.loss, 0
        else:
            state.stale_evaluations += 1
        run.emit(
            "evaluate",
            valid_loss=result.loss,
            bits_per_byte=result.bits_per_byte,
            perplexity=result.perplexity,
            losses=result.losses,
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )


class Patience:
    """Stops the run when the last ``evaluations`` evaluations brought no better one."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations

    def __call__(self, event: Event, run: Run) -> str | None:
        return "stop" if event["type"] == "evaluate" and run.state.stale_evaluations >= self.evaluations else None


class Save:
    """A checkpoint every ``every`` steps, at the end and when the run is asked to stop.

    Kept are the last ``keep_last``, the best, the one before a trapezoid comes down, from which a run is extended, and
    while updates are refused the one before them, to which the run may go back. Nothing goes before the new one stands.
    """

    def __init__(self, saver: Saver, every: int, keep_last: int = 2) -> None:
        self.saver, self.every, self.keep_last = saver, every, keep_last

    def __call__(self, event: Event, run: Run) -> None:
        if event["type"] == "start":
            self.saver.forget(run)
        elif event["type"] == "checkpoint":
            self._tidy(run)
        elif event["type"] == "train":
            self.saver.settle(run)
        if self._wanted(event, run):
            self.saver.save(run)
        if event["type"] == "closing":
            self.saver.settle(run, wait=True)
        elif event["type"] == "end":
            self.saver.deleted()  # also what went when the last checkpoint stood, which hooks hear of after the closing

    def _wanted(self, event: Event, run: Run) -> bool:
        best_now = event["type"] == "evaluate" and run.state.best_step == run.state.step
        decay_begins = event["type"] == "train" and run.state.step == _stable_end(run)
        return due(event, run, self.every) or best_now or decay_begins or event["type"] == "closing"

    def _tidy(self, run: Run) -> None:
        keep = {run.state.best_step, _stable_end(run), *checkpoints_before_trouble(run)[:1]}
        run.world.first_does(lambda: self.saver.delete(prune(run.path, self.keep_last, keep)))
        unless_full(run.write_state)


def _stable_end(run: Run) -> int | None:
    return run.settings.schedule.stable_end if run.settings.schedule else None
