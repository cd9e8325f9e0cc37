"""A run of the quickstart: finished already, gone on with, or begun."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import resolve
from gptloom.config.run_folder import STATE
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.terminal import quietly, say
from gptloom.stages.going_on import resume
from gptloom.train.run import Hook, RunState, read_state


def finish_run(folder: Path, begin: Callable[[], object], hooks: Sequence[Hook] = (), quiet: bool = False) -> RunState:
    """Where the run in ``folder`` ends now; ``begin`` trains it from the start, where no checkpoint was left.

    ``hooks`` are for going on; ``quiet``: nothing that the training itself says is shown.
    """
    if (folder / STATE).exists() and read_state(folder).state == "finished":
        return read_state(folder)
    if finished_checkpoints(folder):
        say(f"going on with {folder}, which was broken off")
        asked = {"run": str(folder), "quiet": True}  # without the line of its own steps
        with quietly(quiet):
            resume(resolve(ResumeOptions, asked, given_source="quickstart"), hooks)
        return read_state(folder)
    if folder.is_dir() and not (folder / STATE).exists():
        shutil.rmtree(folder)  # broken off before there was anything worth keeping
    with quietly(quiet):
        begin()
    return read_state(folder)
