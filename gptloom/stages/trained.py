"""What a training returns to Python: the run's folder, its state, its events, and its model, opened when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gptloom.generation.language_model import LanguageModel
from gptloom.interop.open import load
from gptloom.observe.events import read_events
from gptloom.stages.task import stored_options
from gptloom.train.run import EVENTS, RunState, read_state


@dataclass(frozen=True)
class TrainedRun:
    """A run on disk."""

    path: Path

    @property
    def state(self) -> RunState:
        """As ``state.json`` has it now."""
        return read_state(self.path)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that still holds."""
        return read_events(self.path / EVENTS)

    @property
    def fills_masks(self) -> bool:
        """Whether it learned masked words; then it does not write, and ``gptloom.fill_mask`` asks it."""
        return stored_options(self.path).options.objective == "masked"

    @cached_property
    def model(self) -> LanguageModel:
        """The trained model, ready to write."""
        return load(str(self.path))
