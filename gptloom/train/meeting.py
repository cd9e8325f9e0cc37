"""Where the machines of a training meet: the first of them knows who is there and says when to start, stop and end.

Every machine's launcher (gptloom/train/hosts.py), the first one's too, keeps a connection to the meeting::

    launcher → meeting   hello: who, how many processes, which command     meeting → launcher   start: a round of workers
                         ready: the workers of the last round are gone                          stop: end them
                         ended: the workers ended, or one of them failed                        end: all is over
                                                                                                refused: for this reason

A *round* is one start of all workers. It begins when everyone who is there is ready; without ``elastic`` there is one.
torchrun's own elastic agent is not used: it compares clocks between machines, unpickles what comes from the network,
starts again after a user's mistake too, and loses its way when the machine of the first rank comes back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.observe.terminal import say
from gptloom.train.crew import Restarts
from gptloom.train.wire import Wire
from gptloom.train.workers import ALARM, BROKEN_OFF, GRACE, Ending, cause_of

SETTLE = 3.0  # seconds between the first failure and the verdict: the cause may be heard of after its consequences
SUSPECT = 10.0  # seconds of silence that make a machine the cause of a failure elsewhere
USER_INPUT = 2


@dataclass
class Member:
    """A machine that is there."""

    wire: Wire
    processes: int
    port: int  # free there when it was last ready
    ready: bool = True
    done: bool = False  # its workers ended well
    first_rank: int = 0


class Meeting(threading.Thread):
    """Runs beside the first machine's own launcher. UserError when ``port`` is taken."""

    def __init__(self, nodes: Sequence[str], command: Sequence[str], port: int, elastic: bool, timeout: float) -> None:
        super().__init__(name="meeting", daemon=True)
        self.nodes, self.elastic, self.timeout = nodes, elastic, timeout
        self.command = list(command)  # the same for everyone
        self.members: dict[int, Member] = {}
        self.round = -1
        self.running = False  # workers are at work, as far as known
        self._restarts = Restarts(soon=timeout)
        self._failures: list[Ending] = []
        self._told = False  # a signal was passed on to workers somewhere: nothing is started again
        self._began = self._failed_at = self._ended_at = time.monotonic()
        self._over = False
        self._strangers: list[Wire] = []
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            what = f"port {port} cannot be used on this machine: {error.strerror}"
            raise UserError(Problem(what, mend="another --port, the same on every machine")) from None

    def run(self) -> None:
        while not (self._over and (not self.members or time.monotonic() - self._ended_at > GRACE + SETTLE)):
            self._listen(0.2)
            self._advance()
        self.close()

    def close(self) -> None:
        self._listener.close()
        for wire in [*self._strangers, *(member.wire for member in self.members.values())]:
            wire.close()

    # ---- what is heard -----------------------------------------------------------------------------------------------

    def _listen(self, seconds: float) -> None:
        wires = [*self._strangers, *(member.wire for member in self.members.values())]
        heard, _, _ = select.select([self._listener, *(wire.connection for wire in wires)], [], [], seconds)
        if self._listener in heard:
            self._strangers.append(Wire(self._listener.accept()[0]))
        for wire in list(self._strangers):
            try:
                documents = wire.receive()
                if documents:
                    self._strangers.remove(wire)
                    self._welcome(wire, documents[0])
            except (ConnectionError, KeyError, TypeError, ValueError):  # anyone may knock at a port
                self._strangers = [other for other in self._strangers if other is not wire]
                wire.close()
        for node, member in list(self.members.items()):
            try:
                for document in member.wire.receive():
                    self._hear(node, member, document)
                member.wire.beat()
            except ConnectionError as error:
                self._lose(node, str(error))

    def _welcome(self, wire: Wire, hello: dict[str, Any]) -> None:
        """Takes a machine in, or tells it why not."""
        node, command = int(hello["node"]), list(hello["command"])
        if not 0 <= node < len(self.nodes):
            raise ValueError(node)
        name = self.nodes[node]
        if command != self.command:
            here, there = " ".join(command), " ".join(self.command)
            why = f"the command here differs from that on {self.nodes[0]}"
            return wire.leave("refused", why=why, where=f"here: {here}\n  there: {there}")
        if node in self.members and self.members[node].wire.silence < SUSPECT:
            return wire.leave("refused", why=f"{name} takes part already", where=None)
        if node in self.members:  # its end was not noticed
            self._lose(node, "is gone, and started again")
        if self._over:
            return wire.leave("end", code=ALARM, text="the training is over")
        self.members[node] = Member(wire, int(hello["processes"]), int(hello["port"]))
        if self.running and not any(member.done for member in self.members.values()):
            self._again(f"{name} is here", patience=self.timeout)
        elif self.round < 0 and len(self.members) < len(self.nodes):
            say(f"{f'{name} is here; ' if node else ''}waiting for {self._absent()}")

    def _hear(self, node: int, member: Member, document: dict[str, Any]) -> None:
        match document["type"]:
            case "ready":
                member.ready, member.port = True, int(document["port"])
            case "ended" if document["round"] in (self.round, None):
                self._told = self._told or document["told"]
                ending = document["ending"]
                if ending is None:
                    member.done = True
                elif ending["returncode"] == BROKEN_OFF:
                    self._end(BROKEN_OFF)
                elif self.running:
                    if not self._failures:
                        self._failed_at = time.monotonic()
                    self._failures.append(Ending(**{**ending, "host": self.nodes[node]}))

    def _lose(self, node: int, why: str) -> None:
        """A machine is gone."""
        member = self.members.pop(node)
        member.wire.close()
        if self._over or member.done or (self.round < 0 and node != 0):
            return
        last = member.first_rank + member.processes - 1
        ranks = f"process {last}" if member.processes == 1 else f"processes {member.first_rank} to {last}"
        text = f"{self.nodes[node]} ({ranks}) {why}"
        if self.elastic and not self._told and node != 0:
            self._again(text, patience=GRACE)
        else:
            self._end(ALARM, text)

    # ---- what is decided ---------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if self._over:
            return
        waited = time.monotonic() - self._began
        if self._failures and time.monotonic() - self._failed_at > SETTLE:
            self._judge()
        elif self.running:
            if all(member.done or member.ready for member in self.members.values()):  # ready: came too late
                self._end(0)
        elif self.round >= 0 or len(self.members) == len(self.nodes) or (self.elastic and waited > self.timeout):
            if 0 in self.members and all(member.ready for member in self.members.values()):
                self._start()
        elif waited > self.timeout:
            self._end(USER_INPUT, f"{self._absent()} did not come within {self.timeout:.0f} s")

    def _start(self) -> None:
        """A round: ranks in the order of ``--nodes``."""
        self.round, self.running, self._began = self.round + 1, True, time.monotonic()
        size, first_rank = sum(member.processes for member in self.members.values()), 0
        if self.round or len(self.members) < len(self.nodes):
            absent = self._absent()
            say(f"starting {size} processes{f' without {absent}' if absent else ''}")
        port = self.members[0].port
        for node in sorted(self.members):
            member = self.members[node]
            member.ready, member.done, member.first_rank = False, False, first_rank
            self._tell(node, "start", round=self.round, size=size, first_rank=first_rank, port=port)
            first_rank += member.processes

    def _judge(self) -> None:
        """A worker failed: whether because a machine is lost, and whether all are started again."""
        for node, member in list(self.members.items()):
            if member.wire.silence > SUSPECT:
                self._lose(node, f"has not answered for {member.wire.silence:.0f} s")
        if self._over or not self.running:
            return
        ending = cause_of(self._failures)
        lasted = time.monotonic() - self._began
        again = self.elastic and not self._told and self._restarts.allow(ending.exit_code, lasted, ending.killed)
        if again:
            self._again(str(ending), patience=GRACE)
        else:
            self._end(ending.exit_code, None if ending.explained else str(ending))

    def _again(self, why: str, patience: float) -> None:
        """Ends this round, giving its workers ``patience`` seconds to save; the next begins when all are ready."""
        self.running = False
        self._failures.clear()
        for node in list(self.members):
            self._tell(node, "stop", patience=patience, why=why)

    def _end(self, code: int, text: str | None = None) -> None:
        if self._over:
            return
        self._over, self._ended_at = True, time.monotonic()
        for node in list(self.members):
            self._tell(node, "end", code=code, text=text)

    def _tell(self, node: int, type: str, **fields: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the next look at the connection finds that it is lost
            self.members[node].wire.send(type, **fields)

    def _absent(self) -> str:
        return ", ".join(name for node, name in enumerate(self.nodes) if node not in self.members)
