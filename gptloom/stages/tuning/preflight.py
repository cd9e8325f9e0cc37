"""Before a tuning starts: whether its longest batch fits the memory, in how many parts, and its files the disk."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from gptloom.config.errors import Problem, UserError
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.observe.numbers import human_bytes
from gptloom.stages.preflight import check_disk, device_memory, training_memory
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.part import trained_parameters
from gptloom.stages.tuning.plan import Plan

AnyPlan = TypeVar("AnyPlan", bound=Plan)


def fit_memory(plan: AnyPlan) -> AnyPlan:
    """The plan with a ``micro_batch`` with which its longest batch fits the memory of the device.

    Another library's model is taken as it is: what it keeps of a batch is not known.

    Raises:
        UserError: not even one example at a time fits, or what was asked for does not.
    """
    model, there = plan.body.model, device_memory(plan.device)
    if not isinstance(model, Transformer) or there is None:
        return plan
    longest, memory = plan.batches.longest(), partial(_memory, plan, model)
    asked, examples = plan.options.micro_batch, plan.options.batch_size
    rows = asked or examples
    while rows > 1 and asked is None and memory(_places(longest, rows)) > there:
        rows = -(-rows // 2)
    needed = memory(_places(longest, rows))
    if needed > there:
        at_once = "one example at a time" if rows == 1 else f"{rows} examples at a time"
        what = f"the longest batch, {at_once}, needs {human_bytes(needed)} of {human_bytes(there)} memory"
        levers = [f"--micro-batch {max(1, rows // 4)}"] if rows > 1 else []
        levers += ["a smaller --max-length"] if memory(0) < there and rows == 1 else []
        levers += ["--method lora"] if plan.lora is None else []
        raise UserError(Problem(what, mend=", ".join([*levers, "a smaller model"])))
    if rows == examples or asked is not None:
        return plan
    rule = f"the longest batch whole would need {human_bytes(memory(longest.ids.numel()))} of {human_bytes(there)}"
    return replace(plan, resolved=plan.resolved.derive("micro_batch", rows, rule))


def memory_of(plan: Plan) -> int | None:
    """Bytes that the longest batch will take; None for another library's model."""
    model = plan.body.model
    if not isinstance(model, Transformer):
        return None
    rows = plan.options.micro_batch or plan.options.batch_size
    return _memory(plan, model, _places(plan.batches.longest(), rows))


def _memory(plan: Plan, model: Transformer, places: int) -> int:
    return training_memory(model.config, places, plan.dtype, trained=trained_parameters(model))


def _places(longest: Batch, rows: int) -> int:
    """The most that a part of ``rows`` examples takes, padding included."""
    return max(part.ids.numel() for part in longest.split(rows))


def room_of(plan: Plan) -> int:
    """Bytes of the checkpoints, one of them being written, and of the finished model."""
    stored = 12 * trained_parameters(plan.body.model)
    return (plan.options.keep + 2) * stored + 4 * parameters_of(plan.body.model)


def check_room(plan: Plan, folder: Path) -> None:
    """UserError when checkpoints and the finished model do not fit on the disk."""
    check_disk(folder, room_of(plan))
