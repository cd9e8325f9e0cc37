"""What every run is to Python, whatever trained in it: a folder, its name, its state and its events."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.config.resolve import read_config
from gptloom.config.run_folder import CONFIG, EVENTS
from gptloom.observe.events import read_events
from gptloom.train.run import RunState, read_state


def relative_path(path: str | Path, folder: Path) -> str:
    """``path`` from ``folder``; as it is where no way leads there (another drive of Windows)."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def default_folder(command: str, first: str, otherwise: str) -> str:
    """``runs/COMMAND-NAME-DATE``, NAME being that of the ``first`` file without its endings, or else ``otherwise``."""
    name = Path(first).name.split(".")[0].strip("*") or otherwise
    return f"runs/{command}-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


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
