"""What a fine-tuning returns to Python: the run, its reports on validation and test examples, and its classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gptloom.generation.classifier import Classifier
from gptloom.interop.classifiers import open_classifier
from gptloom.stages.tuning.result import TunedRun


@dataclass(frozen=True)
class FinetunedRun(TunedRun):
    """A run of a fine-tuning."""

    @cached_property
    def model(self) -> Classifier:
        """The fine-tuned model, ready to answer."""
        return open_classifier(self.path)
