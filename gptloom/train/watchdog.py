"""The watchdog of a parallel training: notices when a process hangs, or when one, or a whole machine, is gone.

A thread of each process writes a *beat* to the store every two seconds, with the step and the time since the main
thread's last progress. The first process looks at all beats and passes the verdict; the others look at its beat. So
it notices what no error tells of: a deadlock, a stopped process, a cable that was pulled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from gptloom.config.errors import EndedElsewhere, GuardStop
from gptloom.train.lost import lost_peer
from gptloom.train.network import address_towards
from gptloom.train.world import World

BEAT = 2.0  # seconds between two beats
SILENCE = 30.0  # seconds without a beat after which a process is taken for lost
LAST_WORDS = 10.0  # seconds for what is still said and written before the process ends
ALARM = 3  # exit code


@contextlib.contextmanager
def watching(
    world: World,
    timeout: float,
    *,
    step: Callable[[], int] = lambda: 0,
    failed: Callable[[str], None] = lambda reason: None,
    silence: float = SILENCE,
) -> Iterator[Watchdog]:
    """Watches over the body at every process of ``world``, which enter and leave it together.

    The process ends with exit code 3 when one makes no ``progress`` for ``timeout`` seconds (every process's stacks and
    ``step`` are printed first), or when one gives no sign of life for ``silence`` seconds (it is named). ``failed``
    is then called with the reason, by a thread of the first process, to write it down. What a backend raises when
    another process is gone becomes GuardStop (EndedElsewhere at all but the first process of each machine).
    """
    dog = Watchdog(world, timeout, step, failed, silence)
    dog.start()
    try:
        yield dog
    except RuntimeError as error:
        message = lost_peer(error, dog.places)
        if message is None:
            raise
        if world.local_rank:
            raise EndedElsewhere(ALARM) from None
        raise GuardStop(f"{message} (step {step()})") from error
    finally:
        dog.stop()


@dataclass
class _Seen:
    """What the first process knows of another: its last beat, and since when it has been the same."""

    beat: dict[str, Any]
    since: float


class Watchdog:
    """See ``watching``. The training calls ``progress`` at every step and puts long known work under ``patience``."""

    def __init__(
        self, world: World, timeout: float, step: Callable[[], int], failed: Callable[[str], None], silence: float
    ) -> None:
        self.world, self.timeout, self.step, self.failed, self.silence = world, timeout, step, failed, silence
        self.places: dict[str, str] = {}  # address → who is there
        self._who: list[str] = []  # rank → how to call it
        self._doing: str | None = None
        self._progress = self._heard = self._calm = time.monotonic()
        self._beats = 0
        self._looked = time.monotonic()
        self._seen: dict[int, _Seen] = {}
        self._left = threading.Event()
        self._ending = threading.Lock()
        self._parent = os.getppid()
        self._threads: list[threading.Thread] = []

    def progress(self) -> None:
        """The main thread got something done."""
        self._progress = time.monotonic()

    @contextlib.contextmanager
    def patience(self, doing: str) -> Iterator[None]:
        """Work at any process that may take long: until it is done, nobody is taken to hang."""
        before, self._doing = self._doing, doing
        try:
            yield
        finally:
            self._doing = before
            self.progress()

    # ---- starting and stopping ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Called by all processes together."""
        if self.world.size > 1:
            store = self.world.store
            assert isinstance(store, dist.TCPStore), "processes meet at a TCP store"
            self._acquaint(address_towards(store.host))
            # A connection of its own: the main thread may wait on the world's for hours.
            self._store = dist.TCPStore(
                store.host, store.port, is_master=False, wait_for_workers=False, timeout=_patient()
            )
            self._beat()
            self.world.barrier()  # from here on every beat is there to be read
            self._threads.append(threading.Thread(target=self._converse, name="watchdog", daemon=True))
        if self._threads or dist.is_torchelastic_launched():
            self._threads.append(threading.Thread(target=self._guard, name="watchdog's guard", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """The watch is over; what the others still hear from this process is that it left in order."""
        self._left.set()
        if self.world.size > 1:
            with contextlib.suppress(RuntimeError):
                self._threads[0].join(BEAT)
                if not self._threads[0].is_alive():
                    self._beat()

    def _acquaint(self, address: str | None) -> None:
        """Learns who is where."""
        known = self.world.gather([self.world.host, address])
        self._who = [f"process {rank} on {host}" for rank, (host, _) in enumerate(known)]
        for found in {address for _, address in known if address}:
            ranks = [rank for rank, (_, address) in enumerate(known) if address == found and rank != self.world.rank]
            host = next(host for host, address in known if address == found)
            if ranks:
                numbers = ", ".join(map(str, ranks))
                self.places[found] = f"{host} (process{'es' if len(ranks) > 1 else ''} {numbers})"

    # ---- the thread that talks to the store --------------------------------------------------------------------------

    def _converse(self) -> None:
        while not self._left.wait(BEAT):
            try:
                self._beat()
                if self.world.first:
                    self._judge()
                else:
                    self._listen()
                self._heard = time.monotonic()
            except RuntimeError:
                self._left.wait(BEAT)  # the guard notices when this goes on

    def _beat(self) -> None:
        self._beats += 1
        beat = {
            "count": self._beats,
            "step": self.step(),
            "quiet": round(time.monotonic() - self._progress, 1),
            "doing": self._doing,
            "left": self._left.is_set(),
        }
        self._store.set(_key("beat", self.world.rank), json.dumps(beat))

    def _look(self, ranks: list[int]) -> list[int]:
        """Reads the beats of ``ranks``; those that have been silent for too long."""
        now = time.monotonic()
        if now - self._looked > 3 * BEAT:  # this process was halted itself, which says nothing of the others
            self._seen.clear()
        self._looked = now
        for rank, text in zip(ranks, self._store.multi_get([_key("beat", rank) for rank in ranks]), strict=True):
            beat = json.loads(text)
            if rank not in self._seen or self._seen[rank].beat["count"] != beat["count"]:
                self._seen[rank] = _Seen(beat, now)
        return [
            rank for rank in ranks if now - self._seen[rank].since > self.silence and not self._seen[rank].beat["left"]
        ]

    def _judge(self) -> None:
        """At the first process: is anyone gone, does anyone hang?"""
        everyone = list(range(self.world.size))
        silent = self._look(everyone)
        if silent:
            self._end(self._silence_of(silent))
        beats = [self._seen[rank].beat for rank in everyone]
        if any(beat["doing"] or beat["left"] for beat in beats):
            self._calm = time.monotonic()
        quiet = max(beat["quiet"] for beat in beats)
        if min(quiet, time.monotonic() - self._calm) > self.timeout:
            self._end(f"no progress for {quiet:.0f} s", stacks=True)

    def _listen(self) -> None:
        """At the others: is the first process there, and has it passed a verdict?"""
        if self._store.check([_key("verdict")]):
            verdict = json.loads(self._store.get(_key("verdict")))
            if verdict["stacks"]:
                self._store.set(_key("stacks", self.world.rank), self._own_state())
            _leave()
        if self._look([0]):
            self._end(self._silence_of([0]), alone=True)

    # ---- the thread that never waits for anyone ----------------------------------------------------------------------

    def _guard(self) -> None:
        launched, told, before = dist.is_torchelastic_launched(), False, time.monotonic()
        while not self._left.wait(0.5):
            now = time.monotonic()
            if now - before > BEAT:  # this process was halted itself
                self._heard = now
            before = now
            if self.world.size > 1 and time.monotonic() - self._heard > self.silence + BEAT:
                store = "process 0" if not self.world.first else "the launcher"
                self._end(
                    f"the store of this training, at {store}, has not answered for {self.silence:.0f} s", alone=True
                )
            if launched and not told and os.getppid() != self._parent:
                if not self.world.local_rank:
                    _print("the launcher of this training is gone: it saves and ends")
                told = True
                os.kill(os.getpid(), signal.SIGTERM)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _end(self, reason: str, *, stacks: bool = False, alone: bool = False) -> None:
        """Says why, writes it down and ends the process, whatever its main thread is doing."""
        if not self._ending.acquire(blocking=False):
            time.sleep(2 * LAST_WORDS)  # the other thread is at it
        self._threads.append(threading.Timer(2 * LAST_WORDS, _leave))  # what is said and written may hang as well
        self._threads[-1].start()
        try:
            if not alone:
                self._store.set(_key("verdict"), json.dumps({"reason": reason, "stacks": stacks}))
            # Alone, one speaks on each machine; where the first process was, the next in line.
            if not alone or self.world.local_rank == int(self.world.rank == self.world.local_rank):
                _print(f"stopped: {reason}")
            if stacks:
                _print(self._everyones_state())
            elif time.monotonic() - self._progress > self.timeout:
                _print(self._own_state())
            if self.world.first:
                self.failed(reason)
        finally:
            _leave()

    def _silence_of(self, ranks: list[int]) -> str:
        seconds = min(time.monotonic() - self._seen[rank].since for rank in ranks)
        names = ", ".join(self._who[rank] for rank in ranks)
        return f"{names} gave no sign of life for {seconds:.0f} s: ended, halted, or cut off from the others"

    def _everyones_state(self) -> str:
        """The stacks of all processes, those that are behind first."""
        states = {0: self._own_state()}
        until = time.monotonic() + LAST_WORDS
        while len(states) < self.world.size and time.monotonic() < until:
            for rank in set(range(self.world.size)) - states.keys():
                if self._store.check([_key("stacks", rank)]):
                    states[rank] = self._store.get(_key("stacks", rank)).decode()
            time.sleep(0.2)
        for rank in set(range(self.world.size)) - states.keys():
            states[rank] = f"{self._who[rank]}: does not say where it is"
        order = sorted(states, key=lambda rank: (self._seen[rank].beat["step"], -self._seen[rank].beat["quiet"], rank))
        return "\n".join(states[rank] for rank in order)

    def _own_state(self) -> str:
        """Step, time since the last progress, and what every thread is doing."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        own = {thread.ident for thread in self._threads} | {threading.get_ident()}
        lines = [
            f"{self._who[self.world.rank]}: step {self.step()}, no progress for {time.monotonic() - self._progress:.0f} s"
        ]
        for ident, frame in sys._current_frames().items():
            if ident not in own:
                stack = "".join(traceback.format_stack(frame)).rstrip()
                lines.append(f" thread {names.get(ident, ident)}:\n{stack}")
        return "\n".join(lines)


def _key(kind: str, rank: int | None = None) -> str:
    return f"gptloom/watch/{kind}" + ("" if rank is None else f"/{rank}")


def _patient() -> timedelta:
    return timedelta(seconds=SILENCE)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(ALARM)
