"""The folder of a new run until its training has begun: locked, and as it was before if anything fails by then."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from gptloom.config.errors import UserError
from gptloom.config.run_folder import EVENTS
from gptloom.train.lock import RunLock
from gptloom.train.run import prepare_folder


class Claim:
    """``take`` makes the folder ready and locks it; left by an error, nothing half-made stays and a replaced run is back."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.lock = RunLock(folder)
        self._replaced: Path | None = None

    def take(self) -> None:
        """UserError when there is a run already and may not be replaced, or the folder cannot be written."""
        self._replaced = prepare_folder(self.folder, overwrite=self.overwrite)
        self.lock.acquire()

    def sure(self) -> None:
        """The new run starts now: the one it replaces is deleted."""
        if self._replaced is not None:
            shutil.rmtree(self._replaced)
            self._replaced = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or not self.lock.held:
            return
        self.lock.release()
        unbegun = not (self.folder / EVENTS).exists()
        if unbegun and (isinstance(error, UserError) or self._replaced is not None):
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._replaced is not None:
                self._replaced.rename(self.folder)
