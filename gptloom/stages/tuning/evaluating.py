"""The figures on held-out examples while a tuning runs, and which step was the best."""

from __future__ import annotations

import math
import time
from typing import Any

from gptloom.config.run_folder import CHECKPOINTS
from gptloom.stages.tuning.plan import Plan
from gptloom.train.checkpoint import name_of
from gptloom.train.hooks import due
from gptloom.train.run import Run

Event = dict[str, Any]


class Evaluate:
    """The metrics on the held-out examples every ``every`` steps and at the end; keeps the best step."""

    def __init__(self, plan: Plan, every: int) -> None:
        self.plan, self.every = plan, every

    def __call__(self, event: Event, run: Run) -> None:
        if not due(event, run, self.every):
            return
        started = time.perf_counter()
        found = self.plan.validated()
        state = run.state
        state.valid_loss = found.loss if math.isfinite(found.loss) else None
        if found.value is not None and self._is_best(run, found.value):
            state.best_step, state.best_value, state.best_loss = state.step, found.value, state.valid_loss
            state.stale_evaluations = 0
        else:
            state.stale_evaluations += 1
        run.emit(
            "evaluate",
            valid_loss=found.loss,
            metric=self.plan.metric,
            metrics=dict(found.metrics),
            best_step=state.best_step,
            seconds=time.perf_counter() - started,
        )

    def _is_best(self, run: Run, value: float) -> bool:
        """Of equal values the one of lower loss, then the earlier, is the better.

        A best step whose checkpoint is gone does not count: the run went back to before it was pruned for a better one.
        """
        best, step = run.state.best_value, run.state.best_step
        if best is None or step is None or not (run.path / CHECKPOINTS / name_of(step)).is_dir():
            return True
        if value == best:
            loss, least = run.state.valid_loss, run.state.best_loss
            return loss is not None and least is not None and loss < least
        return value > best if self.plan.higher_is_better else value < best
