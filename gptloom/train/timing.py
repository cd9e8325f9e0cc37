"""Where the time of a training step goes, process by process, and who keeps the others waiting."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from gptloom.observe.times import EXCHANGE, PHASES, WORK

if TYPE_CHECKING:
    from gptloom.train.run import Run

OTHER = "other"
NAMES = (*PHASES, EXCHANGE)
SLOW = 1.2
"""A straggler's own work takes so many times that of the middle process."""


class StepTimer:
    """Sums the time of each phase of the steps. A phase inside another is taken off the outer one's time.

    On CUDA the times are those of the stream that computes, by events that are read once they have happened: nothing
    waits for them. Elsewhere a clock is read, about a microsecond a phase. Outside a step nothing is measured, so that
    evaluating and saving may use what trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._phases = {name: _Phase(self, name) for name in PHASES}
        self._exchange = _Beside(self)
        self._open: list[str] = []  # phases begun and not ended, the innermost last
        self._since: Any = None  # when the innermost was begun or came back
        self._sums = dict.fromkeys(NAMES, 0.0)
        self._awaited: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._steps = 0

    def begin_step(self) -> None:
        self._open, self._since = [OTHER], self.now()

    def end_step(self) -> None:
        self.credit(OTHER, self._since, self.now())
        self._open = []
        self._steps += 1

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Times what is done inside as ``name``, one of ``PHASES``."""
        return self._phases[name]

    def collective(self) -> AbstractContextManager[None]:
        """Times a collective that is called by another thread or stream than the one that computes, where there are several.

        On a CPU the caller waits for it: communication. On CUDA it runs beside the computation: exchange.
        """
        return self._exchange if self.cuda else self._phases["communication"]

    def take(self) -> dict[str, float]:
        """Seconds of each of ``NAMES`` in a step, on average since the last call; a GPU's last events may come later."""
        still_awaited = []
        for name, start, end in self._awaited:
            if end.query():
                self._sums[name] += start.elapsed_time(end) / 1000
            else:
                still_awaited.append((name, start, end))
        self._awaited = still_awaited
        means = {name: total / max(1, self._steps) for name, total in self._sums.items()}
        self._sums, self._steps = dict.fromkeys(NAMES, 0.0), 0
        return means

    # ---- for the phases ----------------------------------------------------------------------------------------------

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def credit(self, name: str, start: Any, end: Any) -> None:
        if self.cuda:
            self._awaited.append((name, start, end))
        else:
            self._sums[name] += end - start

    @property
    def stepping(self) -> bool:
        return bool(self._open)

    def enter(self, name: str) -> None:
        if self.stepping:
            now = self.now()
            self.credit(self._open[-1], self._since, now)
            self._open.append(name)
            self._since = now

    def leave(self) -> None:
        if self.stepping:
            now = self.now()
            self.credit(self._open.pop(), self._since, now)
            self._since = now


class _Phase(AbstractContextManager[None]):
    """One for each name, used again and again: making one costs more than reading a clock."""

    def __init__(self, timer: StepTimer, name: str) -> None:
        self.timer, self.name = timer, name

    def __enter__(self) -> None:
        self.timer.enter(self.name)

    def __exit__(self, *_: object) -> None:
        self.timer.leave()


class _Beside(AbstractContextManager[None]):
    """Times work on a stream of its own, which takes nothing off the phase that is open."""

    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer
        self.start: Any = None

    def __enter__(self) -> None:
        self.start = self.timer.now() if self.timer.stepping else None

    def __exit__(self, *_: object) -> None:
        if self.start is not None:
            self.timer.credit(EXCHANGE, self.start, self.timer.now())


# ---- the collectives of FSDP -----------------------------------------------------------------------------------------


def time_collectives(model: nn.Module, timer: StepTimer) -> None:
    """Times how long FSDP2 gathers the parameters and scatters the gradients of ``model``, inside forward and backward.

    What it does not see: the sums over replicas ("hsdp") and the exchanges inside a layer (tensor parallel).
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AllGather(timer))
            module.set_custom_reduce_scatter(_ReduceScatter(timer))


class _AllGather(DefaultAllGather):
    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        with self.timer.collective():
            return super().__call__(output_tensor, input_tensor, group, async_op)


class _ReduceScatter(DefaultReduceScatter):
    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,  # a ReduceOp, or one with a factor
        async_op: bool = False,
    ) -> dist.Work:
        with self.timer.collective():
            return super().__call__(output_tensor, input_tensor, group, op, async_op)


# ---- all processes together ------------------------------------------------------------------------------------------


class Timing:
    """A hook: with each written ``train`` event one ``timing`` event about all processes since the one before.

    It has ``phases``, the seconds of a step by name and rank, ``hosts`` by rank, and ``stragglers``. The first step of
    an attempt, in which everything is set up and compiled, is left out.
    """

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.warm = False

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if event["type"] == "start":
            self.hosts, self.warm = run.world.gather(run.world.host), False
        if event["type"] != "train":
            return
        if not self.warm:
            run.timer.take()
            self.warm = True
        elif run.state.step % run.settings.log_every == 0 or run.state.step == run.settings.steps:
            phases = self._gathered(run.timer.take(), run)
            unseen = {"backward"} if run.parallel.strategy == "hsdp" else set()
            late = find_stragglers(phases, unseen)
            stragglers = [{"rank": rank, "host": self.hosts[rank], "times": times} for rank, times in late.items()]
            run.emit("timing", phases=phases, hosts=self.hosts, stragglers=stragglers)

    @staticmethod
    def _gathered(own: Mapping[str, float], run: Run) -> dict[str, list[float]]:
        """Every process's times, by name and rank; every process sums its own row with the others' zeros."""
        row = [0.0] * (run.world.size * len(NAMES))
        row[run.world.rank :: run.world.size] = [own[name] for name in NAMES]
        table = [round(value, 6) for value in run.world.sum(row)]
        rows = {name: table[index * run.world.size :][: run.world.size] for index, name in enumerate(NAMES)}
        return {name: times for name, times in rows.items() if name in PHASES or any(times)}


def find_stragglers(phases: Mapping[str, Sequence[float]], unseen: Collection[str] = ()) -> dict[int, float]:
    """The ranks whose own work takes more than ``SLOW`` times that of the middle one, and how many times.

    Own work is data, forward and backward without waiting. In the phases ``unseen`` processes wait for each other where
    it is not measured: they say nothing of who is late. Of two processes the faster is the middle one.
    """
    own = [sum(times) for times in zip(*(phases[name] for name in WORK if name not in unseen), strict=True)]
    if EXCHANGE in phases:  # who exchanges for longer than the others has waited for them, inside forward or backward
        shortest = min(phases[EXCHANGE])
        own = [work - (exchange - shortest) for work, exchange in zip(own, phases[EXCHANGE], strict=True)]
    middle = statistics.median_low(own)
    return {rank: round(work / middle, 2) for rank, work in enumerate(own) if middle > 0 and work > SLOW * middle}
