"""A training on several machines: what the launcher of each does. The first one's also carries the meeting of all."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.observe.terminal import say
from gptloom.train.crew import Crew, environment_of
from gptloom.train.meeting import Meeting
from gptloom.train.network import free_port
from gptloom.train.wire import Wire
from gptloom.train.workers import ALARM, BROKEN_OFF, GRACE, POLL, Ending, Workers


def work_together(
    crew: Crew, heard: deque[int], *, nodes: Sequence[str], place: int, port: int, elastic: bool, timeout: float
) -> int:
    """Takes part in the training of ``nodes`` as the one at ``place``, and returns the exit code.

    UserError when the port is taken, when the first machine does not answer within ``timeout`` seconds, or when it
    refuses this one. KeyboardInterrupt at a second Ctrl-C, and at the first while the machines wait for each other.
    """
    with _meeting(crew, nodes, port, elastic, timeout) if place == 0 else contextlib.nullcontext():
        host = _Host(crew, heard, nodes, place, port, elastic, timeout)
        while True:
            with contextlib.closing(host.connect()) as wire:
                code = host.follow(wire)
            if code is not None:
                return code


@contextlib.contextmanager
def _meeting(crew: Crew, nodes: Sequence[str], port: int, elastic: bool, timeout: float) -> Iterator[None]:
    meeting = Meeting(nodes, crew.arguments, port, elastic, timeout)
    meeting.start()
    try:
        yield
    finally:
        meeting.join(2 * GRACE)  # the others must still hear how it ended


@dataclass
class _Round:
    """The workers of one round, and what the meeting knows of them."""

    number: int
    workers: Workers
    told: bool = False  # the meeting knows that they ended, or that one failed
    leave_by: float | None = None  # the meeting wants them gone by then (monotonic clock)


class _Host:
    """This machine's part: starts and ends its workers as the meeting says, and reports how they fare."""

    def __init__(
        self,
        crew: Crew,
        heard: deque[int],
        nodes: Sequence[str],
        place: int,
        port: int,
        elastic: bool,
        timeout: float,
    ) -> None:
        self.crew, self.heard, self.nodes, self.place = crew, heard, nodes, place
        self.port, self.elastic, self.timeout = port, elastic, timeout
        self.round: _Round | None = None

    def connect(self) -> Wire:
        """A connection to the meeting, as soon as there is one."""
        first, until, asked = self.nodes[0], time.monotonic() + self.timeout, False
        while time.monotonic() < until:
            if self.heard:
                raise KeyboardInterrupt
            try:
                address = "localhost" if self.place == 0 else first
                return Wire(socket.create_connection((address, self.port), timeout=2.0))
            except OSError:
                if not asked:
                    say(f"waiting for {first}, port {self.port}")
                asked = True
                time.sleep(5 * POLL)
        what = f"{first} did not answer at port {self.port} within {self.timeout:.0f} s"
        raise UserError(Problem(what, mend=f"the same command on {first}; is the port open between the machines?"))

    def follow(self, wire: Wire) -> int | None:
        """Does as the meeting says until all is over; None when the connection was lost and should be made anew."""
        try:
            own = {"node": self.place, "processes": self.crew.processes, "port": free_port()}
            wire.send("hello", command=list(self.crew.arguments), **own)
            while True:
                for document in wire.receive(POLL):
                    if document["type"] == "end":
                        return self._end(document)
                    self._obey(document)
                self._listen(wire)
                self._report(wire)
                wire.beat()
        except ConnectionError as error:
            return self._alone(f"{self.nodes[0]} {error}")
        finally:
            if self.round is not None:
                self.round.workers.end()
                self.round = None

    def _obey(self, document: dict[str, Any]) -> None:
        match document["type"]:
            case "start":
                peer = self.nodes[0] if self.place else self.nodes[1]
                number, first, port = document["round"], document["first_rank"], document["port"]
                environment = environment_of(document["size"], self.nodes[0], port, number, peer)
                self.round = _Round(number, self.crew.start(environment, first))
            case "stop":
                say(f"{document['why']}: starting again from the last checkpoint")
                if self.round is not None:
                    self._leave(document["patience"])
            case "refused":
                raise UserError(Problem(document["why"], document["where"]))

    def _leave(self, patience: float) -> None:
        """Asks the workers to save and end; what still works after ``patience`` seconds is killed."""
        assert self.round is not None
        leave_by = time.monotonic() + patience
        if self.round.leave_by is None:
            self.round.workers.tell(signal.SIGTERM)
            self.round.leave_by = leave_by
        self.round.leave_by = min(self.round.leave_by, leave_by)

    def _listen(self, wire: Wire) -> None:
        """Signals go to the workers; where there are none, they end the waiting."""
        try:
            if self.round is not None:
                self.round.workers.pass_on(self.heard)
            elif self.heard:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            with contextlib.suppress(ConnectionError):
                wire.send("ended", round=None, told=True, ending=asdict(Ending(0, 0, BROKEN_OFF)))
            raise

    def _report(self, wire: Wire) -> None:
        if self.round is None:
            return
        workers = self.round.workers
        if self.round.leave_by is not None:
            if not workers.working or time.monotonic() > self.round.leave_by:
                workers.end()
                self.round = None
                wire.send("ready", port=free_port())
        elif not self.round.told and (workers.failed or not workers.working):
            ending = workers.cause()
            if ending is not None and workers.broken_off(ending):
                ending = Ending(ending.rank, ending.pid, BROKEN_OFF)
            self.round.told = True
            told = workers.told is not None
            wire.send("ended", round=self.round.number, told=told, ending=None if ending is None else asdict(ending))

    def _end(self, document: dict[str, Any]) -> int:
        """All is over: the workers that are left may say what they know."""
        code, text = int(document["code"]), document["text"]
        if text:
            print(f"{'stopped' if code == ALARM else 'error'}: {text}", file=sys.stderr, flush=True)
        if self.round is not None:
            self.round.workers.wait(GRACE)
        return code

    def _alone(self, why: str) -> int | None:
        """The meeting is lost."""
        if self.round is not None:
            workers = self.round.workers
            workers.wait(GRACE)
            if not (workers.working or workers.failed) and self.round.leave_by is None:
                return 0
        if self.elastic:
            say(f"{why}: its return is waited for")
            return None
        print(f"stopped: {why}", file=sys.stderr, flush=True)
        return ALARM
