"""Before a tuning starts: whether its longest batch fits the memory, in how many parts, and its files the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.counting import count_parameters
from gptloom.model.transformer import Transformer
from gptloom.observe.terminal import human_bytes
from gptloom.stages.preflight import activation_bytes, check_disk, device_memory
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.part import trained_parameters
from gptloom.stages.tuning.plan import Plan

OVERHEAD = 400 * 2**20  # the interpreter and its libraries

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
    longest = plan.batches.longest()
    fixed = tuning_memory(model.config, trained_parameters(model), plan.dtype)
    per_token = activation_bytes(model.config, plan.dtype)
    asked, examples = plan.options.micro_batch, plan.options.batch_size
    rows = asked or examples
    while rows > 1 and asked is None and fixed + per_token * _tokens(longest, rows) > there:
        rows = -(-rows // 2)
    needed = fixed + per_token * _tokens(longest, rows)
    if needed > there:
        at_once = "one example at a time" if rows == 1 else f"{rows} examples at a time"
        what = f"the longest batch, {at_once}, needs {human_bytes(needed)} of {human_bytes(there)} memory"
        levers = [f"--micro-batch {max(1, rows // 4)}"] if rows > 1 else []
        levers += ["a smaller --max-length"] if fixed < there and rows == 1 else []
        levers += ["--method lora"] if plan.lora is None else []
        raise UserError(Problem(what, mend=", ".join([*levers, "a smaller model"])))
    if rows == examples or asked is not None:
        return plan
    whole = human_bytes(fixed + per_token * longest.tokens)
    rule = f"the longest batch whole would need {whole} of {human_bytes(there)}"
    return replace(plan, resolved=plan.resolved.derive("micro_batch", rows, rule))


def _tokens(longest: Batch, rows: int) -> int:
    return max(part.tokens for part in longest.split(rows))


def tuning_memory(config: ModelConfig, trained: int, dtype: torch.dtype) -> int:
    """Bytes without activations: fp32 masters, gradients and two moments of what is ``trained``, a compute copy."""
    n = count_parameters(config).total
    copy = dtype.itemsize * n if dtype.itemsize < 4 else 0
    return 4 * n + copy + 12 * trained + OVERHEAD


def memory_of(plan: Plan) -> int | None:
    """Bytes that the longest batch will take; None for another library's model."""
    model = plan.body.model
    if not isinstance(model, Transformer):
        return None
    rows = plan.options.micro_batch or plan.options.batch_size
    fixed = tuning_memory(model.config, trained_parameters(model), plan.dtype)
    return fixed + activation_bytes(model.config, plan.dtype) * _tokens(plan.batches.longest(), rows)


def room_of(plan: Plan) -> int:
    """Bytes of the checkpoints, one of them being written, and of the finished model."""
    stored = 12 * trained_parameters(plan.body.model)
    return (plan.options.keep + 2) * stored + 4 * parameters_of(plan.body.model)


def check_room(plan: Plan, folder: Path) -> None:
    """UserError when checkpoints and the finished model do not fit on the disk."""
    check_disk(folder, room_of(plan))
