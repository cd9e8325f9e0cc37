"""What a run does when its disk is full: it waits for room, says so, and gives up after a while with all it has intact."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.config.errors import EndedElsewhere, Problem, UserError
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.events import EventLog
from gptloom.observe.numbers import human_bytes, human_time
from gptloom.observe.terminal import say

if TYPE_CHECKING:
    from gptloom.train.run import Run

FULL = [errno.ENOSPC, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])]  # no space left, or none in one's quota
REASON = "the disk is full"
LOOK_EVERY = 1.0  # seconds between two looks at the disk
SPARE = 1.02  # beside the tensors: headers, tokenizer, blocks that are not filled
SPARE_BYTES = 64 << 10


class DiskFull(UserError):
    """The run ends because its disk stayed full; everything up to the last checkpoint is there."""


def is_full(error: BaseException) -> bool:
    """Whether a full disk is the cause, also when a library has put the system's words into an error of its own."""
    return getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL)


def unless_full(write: Callable[[], object]) -> bool:
    """Does what a run can do without; False when the disk had no room for it."""
    try:
        write()
    except Exception as error:
        if not is_full(error):
            raise
        return False
    return True


def free_bytes(path: Path) -> int:
    """What the disk of ``path``, or of the nearest folder above it that exists, has left for this user."""
    there = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    return shutil.disk_usage(there).free


class Room:
    """Room on the disk of a run for something of ``n_bytes``, waited for by all processes together.

    ``minutes`` is how long in all, from the first time that there was none.
    """

    def __init__(self, run: Run, what: str, n_bytes: int, minutes: float) -> None:
        self.run, self.what, self.minutes = run, what, minutes
        self.needed = int(n_bytes * SPARE) + SPARE_BYTES
        self._since: float | None = None

    def wait(self, *, tried: bool = False) -> None:
        """Returns when there is room: at once when there is, and nobody has just ``tried`` in vain.

        Meanwhile the run counts as paused. DiskFull when it takes too long, or the run is asked to stop.
        """
        with self.run.world.patience("waiting for room on the disk"):
            while (verdict := self._verdict(tried)) == "wait":
                if self._since is None:
                    self._since = time.monotonic()
                    self._pause()
                time.sleep(LOOK_EVERY)
                tried = False  # what stood in the way may be gone
        if verdict != "room":
            raise self._giving_up(verdict) if self.run.world.first else EndedElsewhere(2)

    def found(self) -> None:
        """Whatever it was for is written: the run goes on."""
        if self._since is None:
            return
        self.run.state.state, self.run.state.reason = "running", ""
        waited = human_time(time.monotonic() - self._since)
        self._tell("there is room on the disk again", f"goes on after {waited}")
        self._since = None

    def _verdict(self, tried: bool) -> str:
        """What the first process sees, at all of them: ``room``, ``wait``, ``late`` or ``stop``."""
        run = self.run
        if run.world.share(not tried and free_bytes(run.path) >= self.needed):
            return "room"
        if run.check_stop() and not run.complete:
            return "stop"
        waited = 0.0 if self._since is None else time.monotonic() - self._since
        verdict: str = run.world.share("late" if waited >= 60 * self.minutes else "wait")
        return verdict

    def _pause(self) -> None:
        self.run.state.state, self.run.state.reason = "paused", REASON
        self._tell(f"{REASON}: {self._numbers()}", f"waits up to {self.minutes:g} minutes for room")

    def _tell(self, reason: str, action: str) -> None:
        """The log and the state lie on the same disk: what it does not take is not worth the run."""
        if self.run.world.first:
            say(f"{reason}; the run {action}")  # now: readers see the event when the saving is over
        unless_full(self.run.write_state)
        unless_full(lambda: self.run.emit("guard", sync=True, reason=reason, action=action))

    def _numbers(self) -> str:
        return f"{self.what} needs {human_bytes(self.needed)}, {human_bytes(free_bytes(self.run.path))} are free"

    def _giving_up(self, verdict: str) -> DiskFull:
        why = "the run was asked to stop" if verdict == "stop" else f"there was no room for {self.minutes:g} minutes"
        kept = list(finished_checkpoints(self.run.path))
        goes_on = f"it goes on from step {kept[-1]}" if kept else "it starts again, since nothing was saved"
        mend = f"make room, then gptloom resume {self.run.path}: {goes_on}"
        return DiskFull(Problem(f"{REASON} and {why}: {self._numbers()}", str(self.run.path), mend))


class PatientLog:
    """The event log of a run on a disk that may be full: what it does not take is kept, and written once it does.

    ``append`` is ``EventLog.append``, but it never fails for lack of room; the event is then returned without ``time``,
    which it gets when it is written.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: deque[dict[str, Any]] = deque()

    @property
    def attempt(self) -> int:
        return self._log.attempt

    @attempt.setter
    def attempt(self, number: int) -> None:
        self._log.attempt = number

    def append(self, type: str, *, step: int, sync: bool = False, **fields: Any) -> dict[str, Any]:
        self._waiting.append({"type": type, "step": step, "sync": sync, **fields})
        written: dict[str, Any] = {"type": type, "step": step, **fields}
        try:
            while self._waiting:
                written = self._log.append(**self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if error.errno is not None and not is_full(error):  # without a number: the disk took a part of the line
                raise
            return {"type": type, "step": step, **fields}
        return written

    def close(self) -> None:
        """What waits is tried once more, and lost when there is still no room."""
        with contextlib.suppress(OSError):
            while self._waiting:
                self._log.append(**self._waiting.popleft())
        self._log.close()
