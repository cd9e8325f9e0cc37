"""When memory runs out: recognising it, halving the rows of a forward pass, and telling the user what would help."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.observe.numbers import human_bytes
from gptloom.train.run import Run

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lever:
    """Something that makes a process need less memory."""

    change: str  # as the user would give it
    saves: int  # bytes, predicted


@dataclass(frozen=True)
class Levers:
    """What a process was predicted to need, in bytes, and what would make it less, the least costly first."""

    needed: int
    levers: Sequence[Lever]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused: by the accelerator, by torch's allocator on the CPU, by Python or the system."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    texts = (
        "out of memory",
        "can't allocate memory",
        "bad_alloc",
    )  # cuBLAS and MPS, DefaultCPUAllocator, the C++ library
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


@contextmanager
def levers_named(find: Callable[[], Levers] | None) -> Iterator[None]:
    """Turns running out of memory into a UserError with what would help; ``find`` predicts it, None leaves it as it is."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if find is None or not is_out_of_memory(error):
            raise
        raise _explained(find()) from error


def _explained(found: Levers) -> UserError:
    what = f"out of memory: this training was predicted to need {human_bytes(found.needed)} in a process"
    tries = [
        f"{number}. {lever.change} (saves about {human_bytes(lever.saves)})"
        for number, lever in enumerate(found.levers, 1)
    ]
    return UserError(Problem(what, mend=", ".join(tries)))


def largest_micro_batch(try_rows: Callable[[int], None], rows: int) -> int:
    """The first of ``rows``, half of them, a quarter ... for which ``try_rows`` does not run out of memory.

    What the last failure raised, when not even one row fits; every other error at once.
    """
    while True:
        try:
            try_rows(rows)
        except (RuntimeError, MemoryError, OSError) as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        else:
            return rows
        release()  # out here, where the failed pass is no longer held by its traceback
        rows //= 2


def with_fewer_rows(run: Run, work: Callable[[], Result]) -> Result:
    """What ``work``, which computes a step's gradients, returns: done again with half the rows while memory runs out.

    The step's batch stays the same, only its micro-batches get smaller, and stay so. Only where the rows were not chosen
    by the user (``settings.halve``), and by a process alone: others would wait for its part of a sum.
    """
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            rows = rows_of_a_pass(run)
            may = run.settings.halve and run.world.size == 1 and rows is not None and rows > 1
            if not (may and is_out_of_memory(error)):
                raise
        run.optimizer.zero_grad()
        release()
        assert rows is not None
        action = f"rows of a forward pass halved from {rows} to {rows // 2}, the batch is the same"
        run.emit("guard", sync=True, reason="out of memory", action=action, micro_batch=rows // 2)
        run.halvings.append((run.state.step, rows // 2))


def rows_of_a_pass(run: Run) -> int | None:
    """Rows of a forward pass at the present step; None: the whole batch.

    A sum in other pieces is rounded otherwise, so a step that is done again after a resume takes the rows it had.
    """
    rows = [fewer for step, fewer in run.halvings if step <= run.state.step]
    return min(rows, default=run.settings.micro_batch)


def halvings(events: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """The halvings that ``events`` tell of: (step from which on, rows)."""
    return [(event["step"], event["micro_batch"]) for event in events if event.get("micro_batch") is not None]


def release() -> None:
    """Gives back what nobody uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
