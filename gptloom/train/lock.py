"""The lock of a run folder: held by one living process at most; a dead one holds nothing.

The operating system's lock is enough on one machine, and on network disks that pass locks on. Not all do, so the holder
also touches the file every few seconds: a process on another machine that could take the lock first watches whether
the file still lives. No clocks are compared.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from gptloom.config.errors import Problem, UserError
from gptloom.observe.terminal import say

NAME = "lock"
BEAT = 5.0  # seconds between two touches
WATCH = 4 * BEAT  # without a touch after which a holder on another machine is taken for dead
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what disks answer that know no locks


class RunLock:
    """A lock on ``RUN/lock``, released when the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self._file: IO[bytes] | None = None
        self._released = threading.Event()

    def acquire(self) -> None:
        """Raises UserError when another process works on the run, and OSError when the folder cannot be written.

        Nothing happens when it is held already: a training holds it from its preparation on.
        """
        if self.held:
            return
        file = self.path.open("a+b")
        holder = _holder(self.path)
        if not _try_for(file, 0.2) or _lives_elsewhere(self.path, holder):
            file.close()
            raise UserError(
                Problem(
                    f"another process is training in this folder ({_named(_holder(self.path))})",
                    str(self.path.parent),
                    f"gptloom follow {self.path.parent}, gptloom stop {self.path.parent}, or another --out",
                )
            )
        file.truncate(0)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time())}
        file.write(json.dumps(mine).encode())
        file.flush()
        self._file = file
        self._released = threading.Event()
        threading.Thread(target=_beat, args=(self.path, self._released), name="lock", daemon=True).start()

    @property
    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            self._released.set()
            self._file.truncate(0)  # nobody has to watch a lock that was let go
            self._file.close()
            self._file = None


def is_locked(run: Path) -> bool:
    """Whether a living process holds the lock of ``run``."""
    path = run / NAME
    if not path.exists():
        return False
    with path.open("rb") as file:
        if not _try_lock(file):
            return True
    holder = _holder(path)
    # For a look at a list nobody waits: a file touched so lately lives, as far as the clocks agree.
    return _is_elsewhere(holder) and time.time() - path.stat().st_mtime < WATCH


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(BEAT):
        try:
            os.utime(path)
        except OSError:  # the folder is gone, or its disk for a while
            continue


def _lives_elsewhere(path: Path, holder: dict[str, Any]) -> bool:
    """Whether a holder on another machine, whose lock is not seen here, still touches the file."""
    if not _is_elsewhere(holder):
        return False
    say(f"the run was last trained on {holder['host']}: watching for {WATCH:.0f} s whether it still is")
    before, end = path.stat().st_mtime_ns, time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(0.5, WATCH / 10))
        if path.stat().st_mtime_ns != before:
            return True
    return False


def _is_elsewhere(holder: dict[str, Any]) -> bool:
    return "host" in holder and holder["host"] != socket.gethostname()


def _try_for(file: IO[bytes], seconds: float) -> bool:
    """``is_locked`` holds the lock for the moment of its look; a process that only looks is waited for."""
    end = time.monotonic() + seconds
    while not _try_lock(file):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _holder(path: Path) -> dict[str, Any]:
    """What the holder wrote of itself; empty where there is none."""
    try:
        holder = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "process unknown"


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
        except OSError as error:
            return error.errno in NO_LOCKS
        return True
