"""What would make a training need less memory, and by how much: predicted by the arithmetic of the preflight."""

from __future__ import annotations

from dataclasses import replace

import torch

from gptloom.config.model import SIZED_FAMILIES, ModelConfig, family_presets, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.stages.machine import Machine, process_memory
from gptloom.train.out_of_memory import Lever, Levers

SHOWN = 3


def find_levers(options: PretrainOptions, config: ModelConfig, machine: Machine) -> Levers:
    """The first three that apply, the least costly first: fewer rows at a time and recomputing leave the result alone,
    sharding needs more devices, a shorter context or a smaller model is another training.
    """
    needed = process_memory(options, config, machine)
    changes: list[tuple[str, int]] = []

    def predict(
        change: str, options: PretrainOptions, config: ModelConfig = config, machine: Machine = machine
    ) -> None:
        changes.append((change, needed - process_memory(options, config, machine)))

    rows = options.micro_batch
    assert isinstance(rows, int)
    if rows > 1:
        predict(f"--micro-batch {rows // 2}", options.model_copy(update={"micro_batch": rows // 2}))
    if not options.recompute:
        predict("--recompute", options.model_copy(update={"recompute": True}))
    sharded = options.model_copy(update={"strategy": "fsdp"})
    devices = torch.cuda.device_count() if machine.device.type == "cuda" else 1
    if machine.world.size > 1:
        predict("--strategy fsdp", sharded)
    elif devices > 1:
        several = replace(machine, world=replace(machine.world, size=devices, local_size=devices))
        predict(f"--processes {devices} --strategy fsdp", sharded, machine=several)
    shorter = config.model_copy(update={"context": config.context // 2})
    predict(f"--context {shorter.context}", options, shorter)
    smaller = _smaller_preset(options, config, machine, needed)
    if smaller is not None:
        changes.append(smaller)
    return Levers(needed, [Lever(change, saves) for change, saves in changes if saves > 0][:SHOWN])


def _smaller_preset(
    options: PretrainOptions, config: ModelConfig, machine: Machine, needed: int
) -> tuple[str, int] | None:
    """The largest preset of the family that needs at most three quarters of the memory, and how much less."""
    names = family_presets(config.family if config.family in SIZED_FAMILIES else "modern")
    same = {"vocab_size": config.vocab_size, "context": config.context}
    for name in reversed(names):
        candidate = ModelConfig(**{**preset(name), **same})
        saves = needed - process_memory(options, candidate, machine)
        if 4 * saves >= needed:
            return f"--model {name}", saves
    return None
