"""The processes that train one model together: who they are, and what they tell each other besides gradients.

A lone process is a world of one in which every exchange is a no-op, so nothing else asks how many there are. Documents
travel as JSON through the store; no objects are pickled here.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from gptloom.config.errors import EndedElsewhere, GuardStop, Problem, UserError
from gptloom.train.network import interface_towards

if TYPE_CHECKING:
    from gptloom.train.watchdog import Watchdog

Document = Any  # what JSON can hold
FOREVER = timedelta(days=365)  # a process that dies is noticed by the launcher and the watchdog, not by impatience
MARGIN = 60.0  # seconds that a collective is given beyond the timeout, so that the watchdog can say first who hangs
PARTING = 5.0  # seconds in which the others may still hear from the first process what it said last


@dataclass
class World:
    """``size`` processes of which this is number ``rank``; ``local_*`` count those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # how often the launcher has started this world again after a failure
    host: str = field(default_factory=socket.gethostname)
    store: dist.Store | None = None
    step: int = 0  # of the training, for the watchdog's words
    dog: Watchdog | None = None
    on_failure: Callable[[str], None] | None = None  # writes down why the watchdog ends the training
    _exchanges: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and speaks for all."""
        return self.rank == 0

    def progress(self, step: int | None = None) -> None:
        """Tells the watchdog that something got done."""
        if step is not None:
            self.step = step
        if self.dog is not None:
            self.dog.progress()

    def patience(self, doing: str) -> AbstractContextManager[None]:
        """Work that may take any time, for which the others wait: nobody hangs as long as every process is alive."""
        return nullcontext() if self.dog is None else self.dog.patience(doing)

    def share(self, document: Document = None) -> Document:
        """The first process's ``document``, at every process."""
        if self.size == 1:
            return document
        key = self._key("share")
        assert self.store is not None
        if self.first:
            self.store.set(key, json.dumps(document))
            return document
        self.store.wait([key], FOREVER)
        return json.loads(self.store.get(key))

    def gather(self, document: Document) -> list[Document]:
        """Every process's ``document`` in order of rank, at every process."""
        if self.size == 1:
            return [document]
        key = self._key("gather")
        assert self.store is not None
        self.store.set(f"{key}/{self.rank}", json.dumps(document))
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        self.store.wait(keys, FOREVER)
        return [json.loads(self.store.get(key)) for key in keys]

    def barrier(self) -> None:
        """Waits for everyone, however long they take."""
        self.gather(None)

    def first_does(self, work: Callable[[], Document]) -> Document:
        """Runs ``work`` at the first process while the others wait; its document, at every process.

        What it raises is raised at the first process; the others raise EndedElsewhere.
        """
        if self.size == 1:
            return work()
        if not self.first:
            with self.patience("waiting for the first process"):
                outcome = self.share()
            if "code" in outcome:
                raise EndedElsewhere(outcome["code"])
            return outcome["document"]
        try:
            with self.patience("working for all"):
                document = work()
        except BaseException as error:
            self.share({"code": _exit_code(error)})
            raise
        self.share({"document": document})
        return document

    def all_do(self, work: Callable[[], Document]) -> list[Document]:
        """Runs ``work``, which must not communicate, at every process; every document at every process.

        When it fails anywhere no one goes on: the first process raises UserError with the problems of all, each with
        its rank, and the others EndedElsewhere. A fault that is no UserError is raised where it happened.
        """
        if self.size == 1:
            return [work()]
        fault: BaseException | None = None
        outcome: Document
        try:
            outcome = {"document": work()}
        except UserError as error:
            outcome = {"problems": [[p.what, p.where, p.mend] for p in error.problems]}
        except BaseException as error:
            outcome, fault = {"fault": f"{type(error).__name__}: {error}"}, error
        outcomes = self.gather({**outcome, "host": self.host})
        if fault is not None:
            raise fault
        if any("fault" in outcome for outcome in outcomes):
            raise EndedElsewhere(1)
        problems: dict[tuple[str, str | None, str | None], list[str]] = {}
        for rank, outcome in enumerate(outcomes):
            for problem in outcome.get("problems", ()):
                problems.setdefault(tuple(problem), []).append(f"{rank} on {outcome['host']}")
        if not problems:
            return [outcome["document"] for outcome in outcomes]
        if not self.first:
            raise EndedElsewhere(2)
        # What all have in common is said once, as one process would say it.
        raise UserError(
            *(
                Problem(what if len(ranks) == self.size else f"process {', '.join(ranks)}: {what}", where, mend)
                for (what, where, mend), ranks in problems.items()
            )
        )

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes, in fp64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes, in fp64."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def _key(self, kind: str) -> str:
        """The same name at every process, since all make the same exchanges in the same order."""
        self._exchanges += 1
        return f"gptloom/{kind}/{self._exchanges}"


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return 2
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 3 if isinstance(error, GuardStop) else 1


@contextmanager
def join_world(timeout: float = 600.0) -> Iterator[World]:
    """The world this process was started into by ``torchrun`` or ``--processes``: one alone where it was not.

    ``timeout``, in seconds, is how long the meeting may take, and a collective little longer. UserError when the
    processes do not find each other. The process group is always destroyed.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield World(restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))
        return
    meeting = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    _choose_interface()
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        limit = timedelta(seconds=timeout + MARGIN)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError, OSError) as error:  # torch's own kinds of a failed meeting derive from these
        what = f"the processes of this training did not meet at {meeting}: {str(error).splitlines()[0]}"
        mend = "check that the name resolves, that the port is free there and open between the hosts"
        raise UserError(Problem(what, mend=mend)) from None
    try:
        yield World(
            rank,
            size,
            int(os.environ.get("LOCAL_RANK", rank)),
            int(os.environ.get("LOCAL_WORLD_SIZE", size)),
            int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
            store=store,
        )
    finally:
        _part(store, rank, size)
        dist.destroy_process_group()


def _choose_interface() -> None:
    """Lets gloo listen where the others can reach this process (``launch`` has chosen already, ``torchrun`` has not)."""
    address = os.environ.get("MASTER_ADDR", "")
    interface = interface_towards(address) if address else None
    elsewhere = os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")
    if interface is not None and not (interface == "lo" and elsewhere):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _part(store: dist.Store, rank: int, size: int) -> None:
    """The first process, which keeps the store, leaves last: what it said last would else be lost."""
    with suppress(RuntimeError):  # one that ended before says nothing
        if rank:
            store.set(f"gptloom/parted/{rank}", "")
            return
        until = time.monotonic() + PARTING
        while not store.check([f"gptloom/parted/{other}" for other in range(1, size)]) and time.monotonic() < until:
            time.sleep(0.02)
