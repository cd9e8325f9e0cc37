"""What every machine of a training starts, and whether it is started again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gptloom.observe.machine import cores
from gptloom.observe.terminal import say
from gptloom.train.network import interface_towards
from gptloom.train.workers import EXPLAINED, Workers

USERS = ("GLOO_SOCKET_IFNAME", "TORCH_CPP_LOG_LEVEL")  # torch's own settings: what the user set holds


@dataclass(frozen=True)
class Crew:
    """What every machine starts: ``processes`` times ``command``."""

    command: Sequence[str]
    processes: int
    threads: int | None = None  # the workers set them themselves; None: the cores are shared out

    @property
    def arguments(self) -> Sequence[str]:
        """The command without the program, which may lie elsewhere on another machine."""
        return self.command[1:]

    def start(self, shared: Mapping[str, str], first_rank: int = 0) -> Workers:
        """The workers ``first_rank`` and up; ``shared`` holds the rest of torchrun's environment."""
        environment = {**shared, "LOCAL_WORLD_SIZE": str(self.processes)}
        if self.threads is None and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, cores() // self.processes))
        ranks = range(self.processes)
        own = [{"RANK": str(first_rank + rank), "LOCAL_RANK": str(rank)} for rank in ranks]
        return Workers(self.command, [{**environment, **ranked} for ranked in own])


def environment_of(size: int, address: str, port: int, restarts: int, peer: str) -> dict[str, str]:
    """The part of torchrun's environment that all workers of a machine share; ``peer`` is who they reach the others by."""
    environment = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "TORCHELASTIC_RUN_ID": f"gptloom-{os.getpid()}",
    }
    interface = interface_towards(peer)
    if interface is not None:
        environment["GLOO_SOCKET_IFNAME"] = interface
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a lost connection is said in words, not as frames of C++
    return {name: os.environ.get(name, value) if name in USERS else value for name, value in environment.items()}


@dataclass
class Restarts:
    """Whether workers that failed are started again: not when they said no themselves, nor for a fault that persists.

    What the user must mend (exit code 2), what a guard ended (3) and what was broken off (130) stays ended, and so does
    what failed ``LIMIT`` times in a row within ``soon`` seconds of its start.
    """

    soon: float
    LIMIT: int = field(default=3, init=False)
    in_a_row: int = field(default=0, init=False)

    def allow(self, exit_code: int, lasted: float, lost: bool) -> bool:
        """``lost``: a machine or a worker is gone, so that what the others ended with is but a consequence."""
        if exit_code in EXPLAINED and not lost:
            return False
        self.in_a_row = self.in_a_row + 1 if lasted < self.soon else 1
        if self.in_a_row < self.LIMIT:
            return True
        say(f"not started again: it failed {self.LIMIT} times in a row within {self.soon:.0f} s of its start")
        return False
