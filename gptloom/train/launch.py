"""Starts a training's processes: the same command line once per process, as ``torchrun`` would start it.

``launch`` serves one machine, and several on each of which the same command is given (gptloom/train/hosts.py).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Sequence

from gptloom.config.errors import Problem, UserError
from gptloom.config.signals import signals_named
from gptloom.observe.terminal import say
from gptloom.train.crew import Crew, Restarts, environment_of
from gptloom.train.hosts import work_together
from gptloom.train.network import free_port, own_place
from gptloom.train.workers import BROKEN_OFF, GRACE, POLL, Ending, Workers, hearing

SETTLE = 0.5  # seconds from the first failure to the words about it


def is_worker() -> bool:
    """Whether this process was started as one of several, by ``launch`` or ``torchrun``: it must start no more."""
    return "RANK" in os.environ


def launch(
    arguments: Sequence[str],
    *,
    processes: int,
    nodes: Sequence[str] = (),
    port: int,
    elastic: bool,
    timeout: float,
    device: str = "auto",
    threads: int | None = None,
    save_on_signal: Sequence[str] = (),
) -> int:
    """Runs ``gptloom ARGUMENTS`` in ``processes`` processes here, and on every other of ``nodes``; returns the exit code.

    Signals (SIGTERM, SIGINT, SIGHUP and ``save_on_signal``) are passed on to the workers, who save and end; a second
    Ctrl-C leaves at once. When one fails it says which and how, and ends the others. With ``elastic`` they are started
    again instead, with the machines that remain, and a machine that comes back is taken in: a worker reads in
    ``World.restarts`` how often that was. ``timeout``, in seconds, is how long machines wait for each other and for
    what their workers still save. UserError when the machines or their number of GPUs do not allow it.
    """
    assert not is_worker(), "a worker starts no others"
    place = own_place(nodes) if nodes else 0
    check_gpus(processes, device)
    crew = Crew((sys.executable, "-m", "gptloom", *arguments), processes, threads)
    return run_crew(crew, nodes, place, port, elastic, timeout, signals_named(list(save_on_signal)))


def run_crew(
    crew: Crew, nodes: Sequence[str], place: int, port: int, elastic: bool, timeout: float, signals: Sequence[int]
) -> int:
    """``launch`` for any command; this machine is the one at ``place`` in ``nodes``."""
    with hearing(signals) as heard:
        try:
            if len(nodes) < 2:
                return work_here(crew, heard, elastic=elastic, timeout=timeout)
            return work_together(crew, heard, nodes=nodes, place=place, port=port, elastic=elastic, timeout=timeout)
        except KeyboardInterrupt:
            return BROKEN_OFF


def check_gpus(processes: int, device: str) -> None:
    """UserError when there are fewer GPUs than processes that want one."""
    if device not in ("auto", "cuda"):
        return
    import torch

    count = torch.cuda.device_count()
    if processes <= count or (device == "auto" and not count):
        return
    what = f"{processes} processes, but {count or 'no'} GPU{'' if count == 1 else 's'} here"
    raise UserError(Problem(what, mend=f"--processes {count}" if count else "--device cpu"))


def work_here(crew: Crew, heard: deque[int], *, elastic: bool, timeout: float) -> int:
    """Runs the workers of a training that has this machine alone; ``heard`` are the signals that reach this process."""
    restarts, count = Restarts(soon=timeout), 0
    while True:
        environment = environment_of(crew.processes, "127.0.0.1", free_port(), count, "127.0.0.1")
        with crew.start(environment) as workers:
            ending = watch(workers, heard)
            if ending is None:
                return 0
            lasted = time.monotonic() - workers.started
            if workers.told is not None or not elastic or not restarts.allow(ending.exit_code, lasted, ending.killed):
                return BROKEN_OFF if workers.broken_off(ending) else ending.exit_code
        count += 1
        say(f"starting again from the last checkpoint ({count}. restart)")


def watch(workers: Workers, heard: deque[int]) -> Ending | None:
    """Waits for the end of all; once one has failed, says how and waits only for what the others still say of it."""
    while workers.working and not workers.failed:
        time.sleep(POLL)
        workers.pass_on(heard)
    if not workers.failed:
        return None
    workers.wait(SETTLE)  # which failed first is not seen by the order in which they are found
    ending = workers.cause()
    assert ending is not None
    if not (ending.explained or workers.broken_off(ending)):
        print(f"{'stopped' if ending.killed else 'error'}: {ending}", file=sys.stderr, flush=True)
    workers.wait(GRACE)
    return ending
