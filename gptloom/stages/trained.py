"""What a training returns to Python: the run's folder, its state, its events, and its model, opened when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gptloom.generation.language_model import LanguageModel
from gptloom.interop.open import load
from gptloom.stages.on_disk import RunOnDisk
from gptloom.stages.task import stored_options


@dataclass(frozen=True)
class TrainedRun(RunOnDisk):
    """A run of a pretraining."""

    @property
    def fills_masks(self) -> bool:
        """Whether it learned masked words; then it does not write, and ``gptloom.fill_mask`` asks it."""
        return stored_options(self.path).options.objective == "masked"

    @cached_property
    def model(self) -> LanguageModel:
        """The trained model, ready to write."""
        return load(str(self.path))
