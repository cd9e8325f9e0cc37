"""The processes that train on this machine: started together, told of signals, and ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

POLL = 0.1  # seconds between looks at the workers
GRACE = 10.0  # seconds in which the others may say what they know, after one has failed
BROKEN_OFF, ALARM = 130, 3  # exit codes of the command line
EXPLAINED = (2, ALARM, BROKEN_OFF)  # a worker that ends with one of these has said why


@dataclass(frozen=True)
class Ending:
    """How a worker ended; ``returncode`` is that of ``subprocess``: negative when a signal killed it."""

    rank: int
    pid: int
    returncode: int
    host: str = ""  # where several machines are at work

    @property
    def killed(self) -> bool:
        return self.returncode < 0

    @property
    def exit_code(self) -> int:
        """What the command ends with on its account: a kill is an alarm."""
        return ALARM if self.killed else self.returncode

    @property
    def explained(self) -> bool:
        """Whether the worker has said itself why it ended."""
        return self.exit_code in EXPLAINED and not self.killed

    def __str__(self) -> str:
        who = f"process {self.rank} (pid {self.pid}{f' on {self.host}' if self.host else ''})"
        if not self.killed:
            return f"{who} ended with exit code {self.returncode}"
        memory = "; the system does that when memory runs out" if self.returncode == -signal.SIGKILL else ""
        return f"{who} was killed by {signal.Signals(-self.returncode).name}{memory}"


class Workers:
    """``command`` started once per environment; leaving the context ends whoever still works."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self.told: int | None = None  # the last signal that was passed on
        self.started = time.monotonic()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for environment in environments:
                rank = int(environment["RANK"])
                self._processes[rank] = subprocess.Popen(
                    command,
                    env={**os.environ, **environment},
                    # Only one can read what is typed. A session of their own keeps the terminal from sending them the
                    # Ctrl-C that they get from here: the second one leaves at once.
                    stdin=None if rank == 0 else subprocess.DEVNULL,
                    start_new_session=True,
                )
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def working(self) -> bool:
        """Whether any has not ended."""
        return any(process.poll() is None for process in self._processes.values())

    @property
    def failed(self) -> bool:
        """Whether any has ended badly."""
        return bool(self._bad())

    def tell(self, number: int) -> None:
        """Passes a signal on to everyone."""
        self.told = number
        if sys.platform == "win32" and number == signal.SIGINT:
            return  # the console gives Ctrl-C to every process by itself, and only it can
        for process in self._processes.values():
            process.send_signal(number)  # nothing happens to one that has ended

    def pass_on(self, heard: deque[int]) -> None:
        """Tells the workers what this process heard. KeyboardInterrupt when that was a second Ctrl-C."""
        while heard:
            number = heard.popleft()
            again = self.told is not None and number == signal.SIGINT
            self.tell(number)
            if again:
                self.wait(1.0)
                raise KeyboardInterrupt

    def wait(self, seconds: float) -> None:
        """Returns when all have ended, or ``seconds`` have passed."""
        until = time.monotonic() + seconds
        while self.working and time.monotonic() < until:
            time.sleep(POLL)

    def end(self) -> None:
        """Kills whoever still works, with all that it has started."""
        for process in self._processes.values():
            if process.poll() is None:
                if sys.platform == "win32":
                    process.kill()
                else:
                    with contextlib.suppress(ProcessLookupError):  # it has ended just now
                        os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def cause(self) -> Ending | None:
        """The worker on whose account the others failed; None when none has ended badly."""
        bad = self._bad()
        return cause_of(bad) if bad else None

    def broken_off(self, ending: Ending) -> bool:
        """Whether the worker ended by a signal that was passed on to it, before it listened for any."""
        return self.told is not None and ending.returncode == -self.told

    def _bad(self) -> list[Ending]:
        codes = {rank: (process.pid, process.poll()) for rank, process in self._processes.items()}
        return [Ending(rank, pid, code) for rank, (pid, code) in codes.items() if code]


def cause_of(endings: Sequence[Ending]) -> Ending:
    """The bad ending that explains the others, as far as one can tell.

    A kill before a fault before what the worker has explained; an alarm last, since that another is gone is one.
    """
    return min(
        endings, key=lambda ending: (not ending.killed, ending.explained, ending.exit_code == ALARM, ending.rank)
    )


@contextlib.contextmanager
def hearing(numbers: Sequence[int] = ()) -> Iterator[deque[int]]:
    """The signals that reach this process, as they come: the usual ones that end a run, and ``numbers``."""
    heard: deque[int] = deque()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    always = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # One that is ignored stays ignored, unless it was asked for by name: ``nohup`` means it.
    wanted = {*numbers, *(number for number in always if signal.getsignal(number) is not signal.SIG_IGN)}
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in wanted}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by no Python code
