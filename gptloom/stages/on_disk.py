"""What every run is to Python, whatever trained in it: a folder, its state and its events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.config.resolve import read_config
from gptloom.observe.events import read_events
from gptloom.train.run import EVENTS, RunState, read_state

CONFIG = "config.yaml"


def command_of(folder: Path) -> str | None:
    """The command that made a run folder, by its configuration; None where there is none."""
    path = folder / CONFIG
    command = read_config(path).get("command") if path.is_file() else None
    return str(command) if command else None


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
