"""What a fine-tuning returns to Python: the run's folder, its state, events and figures, and its classifier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gptloom.generation.classifier import Classifier
from gptloom.interop.classifiers import open_classifier
from gptloom.stages.on_disk import RunOnDisk

METRICS = "metrics.json"


@dataclass(frozen=True)
class FinetunedRun(RunOnDisk):
    """A run of a fine-tuning."""

    @property
    def figures(self) -> dict[str, Any]:
        """``metrics.json``: the reports on validation and test examples; empty before the run is finished."""
        path = self.path / METRICS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @cached_property
    def model(self) -> Classifier:
        """The fine-tuned model, ready to answer."""
        return open_classifier(self.path)

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
