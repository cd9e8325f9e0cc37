"""Where a training computes: device, number format, threads, and how its processes share the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved
from gptloom.observe.machine import cores
from gptloom.observe.terminal import human_bytes, say
from gptloom.stages.preflight import check_disk, check_memory, checkpoint_bytes, device_memory, training_memory
from gptloom.train.machine_speed import matrix_peak
from gptloom.train.memory import keep_freed_memory
from gptloom.train.parallel import Parallel, Strategy
from gptloom.train.precision import choose_device, choose_dtype
from gptloom.train.reproducible import make_deterministic
from gptloom.train.world import World


@dataclass(frozen=True)
class Machine:
    """Where the training computes, in this process; ``peak``: FLOP/s of matrix products measured, of all processes."""

    world: World
    device: torch.device
    dtype: torch.dtype
    peak: float


def use_machine(options: PretrainOptions, world: World) -> Machine:
    """Sets the threads, chooses device and dtype, and measures how fast they multiply. UserError when they are not there."""
    if options.deterministic:
        make_deterministic()
    world.all_do(lambda: str(_own_device(options, world)))  # what is wrong anywhere is said once, by the first
    device = _own_device(options, world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    threads = options.threads
    if threads is None and world.local_size > 1:  # or every process would take all of them
        threads = max(1, cores() // world.local_size)
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
    dtype, _ = choose_dtype(options.precision, device)
    return Machine(world, device, dtype, world.sum([matrix_peak(dtype, device)])[0])


def _own_device(options: PretrainOptions, world: World) -> torch.device:
    device = choose_device(options.device)
    if device.type != "cuda":
        return device
    there = torch.cuda.device_count()
    if world.local_size > there:
        what = f"{world.local_size} processes on {world.host}, which has {there} GPUs"
        raise UserError(Problem(what, mend=f"--processes {there}"))
    return torch.device("cuda", world.local_rank)


def choose_strategy(
    resolved: Resolved[PretrainOptions], config: ModelConfig, machine: Machine
) -> Resolved[PretrainOptions]:
    """Whole copies of the model where they fit into memory, else shards."""
    options, world = resolved.options, machine.world
    if world.size == 1 or options.strategy is not None:
        return resolved
    there = device_memory(machine.device, world.local_size)
    whole = process_memory(options, config, machine)
    if there is None or whole <= there:
        return resolved.derive("strategy", "ddp", f"a whole copy of the model fits: {human_bytes(whole)} in a process")
    several = world.local_size not in (1, world.size)
    why = f"a whole copy of the model does not fit: {human_bytes(whole)} in a process"
    return resolved.derive("strategy", "hsdp" if several else "fsdp", why)


def process_memory(options: PretrainOptions, config: ModelConfig, machine: Machine) -> int:
    """Bytes that one process will need."""
    assert isinstance(options.micro_batch, int)
    world = machine.world
    tensor = options.tensor_parallel if world.size > 1 else 1
    shards = {"fsdp": world.size, "hsdp": world.local_size}.get(options.strategy or "", 1)
    return training_memory(
        config,
        options.micro_batch * config.context,
        machine.dtype,
        parts=max(shards, tensor),
        tensor=tensor,
        recompute=options.recompute,
    )


def check_room(options: PretrainOptions, config: ModelConfig, machine: Machine, folder: Path, checkpoints: int) -> None:
    """UserError when memory or disk are too small for the training, saying what would fit."""
    needed, there = process_memory(options, config, machine), device_memory(machine.device, machine.world.local_size)
    shards = machine.world.size > 1 and options.strategy in ("fsdp", "hsdp")
    check_memory(config, needed, there, config.context, machine.dtype, shards=shards)
    check_disk(folder, checkpoint_bytes(config) * checkpoints)


def spread(options: PretrainOptions, world: World, device: torch.device) -> Parallel:
    """How the model is spread; of a run that goes on with other processes than before, what still can be."""
    strategy: Strategy = options.strategy or "ddp"
    tensor = options.tensor_parallel
    if world.size == 1:
        if tensor > 1 or strategy != "ddp":
            say("one process now: the model is whole in it")
        return Parallel(world, "one", device, recompute=options.recompute)
    if world.size % tensor:
        say(f"{world.size} processes do not divide into groups of --tensor-parallel {tensor}: matrices stay whole")
        tensor = 1
    if strategy == "hsdp" and world.local_size == world.size:
        say("one machine now: --strategy fsdp instead of hsdp")
        strategy = "fsdp"
    return Parallel(world, strategy, device, tensor=tensor, offload=options.offload, recompute=options.recompute)
