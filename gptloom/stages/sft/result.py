"""What an instruction tuning returns to Python: the run's folder, its state, events and figures, and its model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gptloom.generation.chat import ChatModel
from gptloom.interop.chat import open_chat
from gptloom.stages.on_disk import RunOnDisk

METRICS = "metrics.json"
BEFORE = "before.json"


@dataclass(frozen=True)
class SftRun(RunOnDisk):
    """A run of an instruction tuning."""

    @property
    def figures(self) -> dict[str, Any]:
        """``metrics.json``: losses, smoke test and answers before and after; empty before the run is finished."""
        path = self.path / METRICS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @cached_property
    def model(self) -> ChatModel:
        """The tuned model, ready to talk."""
        return open_chat(self.path)

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
