"""What a tuning returns to Python, whatever it taught: the run's folder, its state, its events and its figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gptloom.config.resolve import Resolved
from gptloom.config.run_folder import METRICS
from gptloom.stages.on_disk import RunOnDisk


@dataclass(frozen=True)
class TunedRun(RunOnDisk):
    """A run that tuned a pretrained model."""

    @property
    def figures(self) -> dict[str, Any]:
        """``metrics.json``: what the stage measured at its end; empty before the run is finished."""
        path = self.path / METRICS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def as_dict(self) -> dict[str, Any]:
        """The run as JSON values."""
        state = self.state
        return {
            "run": str(self.path),
            "state": state.state,
            "reason": state.reason,
            "step": state.step,
            "best_step": state.best_step,
            "seconds": state.seconds,
            **self.figures,
        }


@dataclass(frozen=True)
class TuningDryRun:
    """What ``--dry-run`` found: the options as they would be, and what is trained on what."""

    command: str
    resolved: Resolved[Any]
    sentence: str
    examples: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {"options": self.resolved.as_dict(self.command), "trained": self.sentence, "examples": self.examples}
