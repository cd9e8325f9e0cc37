"""What an instruction tuning returns to Python: the run, its losses and answers before and after, and its model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gptloom.generation.chat import ChatModel
from gptloom.interop.chat import open_chat
from gptloom.stages.tuning.result import TunedRun

BEFORE = "before.json"


@dataclass(frozen=True)
class SftRun(TunedRun):
    """A run of an instruction tuning."""

    @cached_property
    def model(self) -> ChatModel:
        """The tuned model, ready to talk."""
        return open_chat(self.path)
