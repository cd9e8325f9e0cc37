"""The lock of a run folder: held by one living process at most; a dead one holds nothing."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

from gptloom.config.errors import Problem, UserError

NAME = "lock"


class RunLock:
    """An operating-system lock on ``RUN/lock``, released by the system when the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Raises UserError when another process works on the run, and OSError when the folder cannot be written.

        Nothing happens when it is held already: a training holds it from its preparation on.
        """
        if self.held:
            return
        file = self.path.open("a+b")
        if not _try_for(file, 0.2):
            file.close()
            raise UserError(
                Problem(
                    f"another process is training in this folder ({_holder(self.path)})",
                    str(self.path.parent),
                    f"gptloom follow {self.path.parent}, gptloom stop {self.path.parent}, or another --out",
                )
            )
        file.truncate(0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time())}
        file.write(json.dumps(holder).encode())
        file.flush()
        self._file = file

    @property
    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(run: Path) -> bool:
    """Whether a living process holds the lock of ``run``."""
    path = run / NAME
    if not path.exists():
        return False
    with path.open("rb") as file:
        return not _try_lock(file)


def _try_for(file: IO[bytes], seconds: float) -> bool:
    """``is_locked`` holds the lock for the moment of its look; a process that only looks is waited for."""
    end = time.monotonic() + seconds
    while not _try_lock(file):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "process unknown"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            file.seek(1 << 30)  # Windows locks are mandatory: lock a byte beyond the text, so that it stays readable
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
