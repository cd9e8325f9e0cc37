"""How much memory a process holds that trains its part of a model (FSDP2), beside what its shards and one block need.

    python bench/shard_memory.py [--processes 1 2 4] [--layers 44] [--width 640] [--precision auto] [--json FILE]
    python bench/shard_memory.py --side 2      # one number of processes alone, as JSON

Every side is a training of a few steps in so many processes, set up as ``gptloom pretrain --strategy fsdp`` does it. The
model is one in which parameters dominate: many layers, a small vocabulary, one row of a few tokens in each process. The
figure is the most that a process ever held (``VmHWM``) less what it held before the model was made, when a tiny one had
been trained so that all libraries are there; of several processes that of the largest.

Predicted are, for N parameters, of which a block has B and R lie outside of the blocks, in P processes, with c bytes a
number in the compute dtype:

    16 N / P             the shards: masters, gradients and two moments in fp32
    2 c (B + R)          what is gathered at a time: one block, embeddings and last norm, each with its gradients
    c L (14 D + 4 F) T   what L blocks of width D and inner width F keep of T tokens for the backward pass

and for one process 16 N, the copy c N where it computes in bf16, and what the blocks keep. The target is a peak within
10 % of that. FSDP2 holds more than one block in the backward pass: the next one is on its way in (c B), and the gradients
of the one before on their way out (4 B), while two blocks still lack their shards of gradients (8 B / P); the column
``with what is on its way`` has these too.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import worlds
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from gptloom.config.model import ModelConfig
    from gptloom.model.transformer import Transformer
    from gptloom.stages.machine import Machine
    from gptloom.train.parallel import Parallel
    from gptloom.train.world import World

TARGET = 10.0  # percent
STEPS = 3  # gradients come with the first, moments with its update: from the second on all is there
SHAPE = {"layers": 44, "width": 640}
TINY = {"layers": 2, "width": 64}
VOCABULARY, TOKENS, HEAD = 512, 8, 64


# ---- one side, in processes of its own -------------------------------------------------------------------------------


def train(world: World, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains in the processes of ``world``; what this one of them held."""
    from gptloom.config.pretrain import PretrainOptions
    from gptloom.stages.machine import spread, use_machine

    strategy = "fsdp" if world.size > 1 else None
    options = PretrainOptions(
        data=["random tokens"], device="cpu", precision=arguments.precision, threads=1, strategy=strategy
    )
    machine = use_machine(options, world)
    parallel = spread(options, world, machine.device)
    some_steps(model_config(**TINY), machine, parallel)
    gc.collect()  # the processes of a sharded model and its parameters refer to each other
    before = resident_bytes()
    config = model_config(arguments.layers, arguments.width)
    some_steps(config, machine, parallel)
    peak = harness.peak_bytes()
    assert peak is not None, "Linux tells it"
    return {
        "before": before,
        "peak": peak,
        "held": peak - before,
        "parts": predict(config, world.size, machine.dtype.itemsize),
        "precision": str(machine.dtype).removeprefix("torch."),
    }


def model_config(layers: int, width: int) -> ModelConfig:
    """A ``modern`` model that is nearly all blocks."""
    from gptloom.config.model import ModelConfig, preset

    shape = {"n_layer": layers, "d_model": width, "n_head": width // HEAD}
    return ModelConfig(**{**preset("modern-nano"), **shape, "vocab_size": VOCABULARY, "context": TOKENS})


def some_steps(config: ModelConfig, machine: Machine, parallel: Parallel) -> None:
    """What a pretraining does, on one row in each process: tries a step on a model of its own, then trains another."""
    import torch

    from gptloom.data.batch import Batch
    from gptloom.stages.preflight import measure
    from gptloom.train.assemble import fresh_model
    from gptloom.train.loop import fit
    from gptloom.train.objective import NextToken
    from gptloom.train.optimizers import Optimizer, OptimizerSettings
    from gptloom.train.run import LoopSettings, Run, RunState

    def new_model() -> Transformer:
        return fresh_model(config, 0, parallel, machine.dtype)

    settings, objective = OptimizerSettings(), NextToken(parallel.cross_entropy)
    ids = torch.arange(parallel.data_size * TOKENS).reshape(-1, TOKENS) % config.vocab_size
    batch = Batch(ids, ids.roll(-1, 1), torch.ones(ids.shape))
    measure(
        new_model,
        settings,
        objective,
        batch,
        micro_batch=1,
        dtype=machine.dtype,
        parallel=parallel,
        compile=False,
    )
    model = new_model()
    optimizer = Optimizer(model, settings, machine.dtype, parallel)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), LoopSettings(STEPS), RunState(), parallel)
        fit(run, objective, lambda step: batch, model, optimizer)


def resident_bytes() -> int:
    """What this process holds now. RuntimeError where the system has no ``/proc``."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        raise RuntimeError("this bench reads the memory of its processes from /proc, which only Linux has")
    return int(pages.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def predict(config: ModelConfig, processes: int, itemsize: int) -> dict[str, int]:
    """Bytes of one process by what they are for; see above. ``on its way`` is not among what is predicted."""
    from gptloom.model.counting import count_parameters

    count = count_parameters(config)
    block, outside = count.blocks // config.n_layer, count.total - count.blocks
    kept = itemsize * TOKENS * config.n_layer * (14 * config.d_model + 4 * config.d_ff)
    if processes == 1:
        copy = itemsize * count.total if itemsize < 4 else 0
        return {"shards": 16 * count.total, "gathered": copy, "activations": kept, "on its way": 0}
    return {
        "shards": 16 * count.total // processes,
        "gathered": 2 * itemsize * (block + outside),
        "activations": kept,
        "on its way": (itemsize + 4) * block - 8 * block // processes,
    }


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """Every number of processes, one after the other."""
    sides = {name(count): partial(start_side, count, arguments) for count in arguments.processes}
    raw = harness.take_turns(sides, 1)
    table = {side: summary(found["ranks"]) for side, [found] in raw.items()}
    precision = next(iter(raw.values()))[0]["ranks"][0]["precision"]
    checks = [
        Check(f"{side}: peak memory away from what was predicted", abs(figures["away %"] or 0), TARGET, " %", True)
        for side, figures in table.items()
        if side != name(1)
    ]
    settings = {"layers": arguments.layers, "width": arguments.width, "tokens": TOKENS, "precision": precision}
    notes = ["tiny settings: the figures mean nothing and no target is judged"] if arguments.tiny else []
    title = f"MB of a process, {precision}"
    return Result("shard_memory", settings, {title: table}, [] if arguments.tiny else checks, notes, raw)


def name(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def start_side(count: int, arguments: argparse.Namespace, turn: int) -> dict[str, Any]:
    """This script with ``--side``, as a new process."""
    command = [sys.executable, __file__, "--side", str(count), "--precision", arguments.precision]
    return harness.run_json([*command, "--layers", str(arguments.layers), "--width", str(arguments.width)])


def summary(ranks: list[dict[str, Any]]) -> Figures:
    """Of the process that held the most."""
    largest = max(ranks, key=lambda rank: rank["held"])
    parts = largest["parts"]
    predicted = parts["shards"] + parts["gathered"] + parts["activations"]
    return {
        "shards": parts["shards"] / 1e6,
        "gathered": parts["gathered"] / 1e6,
        "predicted": predicted / 1e6,
        "with what is on its way": (predicted + parts["on its way"]) / 1e6,
        "peak": largest["held"] / 1e6,
        "away %": 100 * (largest["held"] / predicted - 1),
        "before the model": largest["before"] / 1e6,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="one side each (default: 1 2 4)")
    parser.add_argument("--layers", type=int, help="blocks (default: 44)")
    parser.add_argument("--width", type=int, help=f"of the model, a multiple of {HEAD} (default: 640)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow blocks: only to see the bench run")
    parser.add_argument("--side", type=int, metavar="N", help="run N processes alone, and print JSON")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    for option, value in (TINY if arguments.tiny else SHAPE).items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)
    if arguments.width % HEAD:
        parser.error(f"--width {arguments.width} is not a multiple of {HEAD}")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side is not None:
        return worlds.run_in_processes(arguments.side, lambda world: train(world, arguments))
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
