"""What every run is to Python, whatever trained in it: a folder, its state and its events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.observe.events import read_events
from gptloom.train.run import EVENTS, RunState, read_state


@dataclass(frozen=True)
class RunOnDisk:
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
