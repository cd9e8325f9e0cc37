"""Where a training computes: device, number format, threads, and how its processes share the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved
from gptloom.observe.machine import cores
from gptloom.observe.numbers import human_bytes
from gptloom.observe.terminal import say
from gptloom.stages.preflight import check_disk, checkpoint_bytes, device_memory, too_little_memory, training_memory
from gptloom.train.machine_speed import matrix_peak
from gptloom.train.memory import keep_freed_memory, return_freed_memory
from gptloom.train.parallel import Parallel, Strategy, check_world
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
    dtype, _ = choose_dtype(options.precision, device)
    return Machine(world, device, dtype, world.sum([matrix_peak(dtype, device)])[0])


def foresee_machine(options: PretrainOptions, world: World) -> Machine:
    """What ``use_machine`` would find in the first process of a ``world`` that is not started."""
    threads = options.threads and min(cores(), options.threads * world.local_size)
    here = use_machine(options.model_copy(update={"threads": threads}), World())
    # Processes on a CPU share it, each GPU has its own.
    units = world.size // world.local_size if here.device.type == "cpu" else world.size
    return replace(here, world=world, peak=here.peak * units)


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
    tensor = options.tensor_parallel if world.size > 1 and world.size % options.tensor_parallel == 0 else 1
    shards = {"fsdp": world.size, "hsdp": world.local_size}.get(options.strategy or "", 1)
    return training_memory(
        config,
        options.micro_batch * options.row_tokens(config.context),
        machine.dtype,
        parts=max(shards, tensor),
        tensor=tensor,
        recompute=options.recompute,
    )


def check_room(options: PretrainOptions, config: ModelConfig, machine: Machine, folder: Path, checkpoints: int) -> None:
    """UserError when memory or disk are too small for a run that goes on, saying what would fit."""
    needed, there = process_memory(options, config, machine), device_memory(machine.device, machine.world.local_size)
    if there is not None and needed > there:
        ways = list(_what_fits(options, config, machine)) or ["a machine with more memory"]
        raise too_little_memory(needed, there, ways, str(folder))
    check_disk(folder, checkpoint_bytes(config) * checkpoints)


def _what_fits(options: PretrainOptions, config: ModelConfig, machine: Machine) -> Iterator[str]:
    """Ways to lay a run out for which the memory suffices: the nearest to the present one of each kind."""
    world, on_cpu = machine.world, machine.device.type == "cpu"
    machines, here = world.size // world.local_size, world.local_size
    gpus = 0 if on_cpu else torch.cuda.device_count()
    sharded = options.model_copy(update={"strategy": "fsdp"})
    length = options.row_tokens(config.context)
    rows = (options.batch_ramp[0] if options.batch_ramp else options.batch_tokens or length) // length
    kinds = [
        [("--recompute", options.model_copy(update={"recompute": True}), machines, here)],
        [("--strategy fsdp", sharded, machines, here)],
        # Processes on a CPU share its memory: fewer have more each. Each GPU brings its own.
        [(f"--processes {n}", options, machines, n) for n in range(here - 1, 0, -1) if on_cpu],
        [(f"--processes {n} --strategy fsdp", sharded, machines, n) for n in range(here + 1, gpus + 1)],
        [(f"--strategy fsdp on {n} such machines (--nodes)", sharded, n, here) for n in range(machines + 1, 1025)],
    ]
    for kind in kinds:
        for change, changed, count, local in kind:
            there = device_memory(machine.device, local)
            imagined = replace(machine, world=World(size=count * local, local_size=local))
            if rows % (count * local) == 0 and process_memory(changed, config, imagined) <= (there or 0):
                yield change
                break


def spread(options: PretrainOptions, world: World, device: torch.device) -> Parallel:
    """How the model is spread; of a run that goes on with other processes than before, what still can be.

    UserError at the first process when it cannot be at all.
    """
    parallel = _spread(options, world, device)
    if device.type == "cpu":
        (return_freed_memory if parallel.sharded else keep_freed_memory)()
    return parallel


def _spread(options: PretrainOptions, world: World, device: torch.device) -> Parallel:
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
    world.all_do(lambda: check_world(world, strategy, device, tensor, options.offload))
    return Parallel(world, strategy, device, tensor=tensor, offload=options.offload, recompute=options.recompute)
