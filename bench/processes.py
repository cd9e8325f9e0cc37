"""How fast two processes train on the cores that one process has: whole copies of a model, gradients summed over gloo.

    python bench/processes.py [--sizes 10M 124M] [--steps 2] [--rounds 2] [--precision auto] [--json FILE]
    python bench/processes.py --side 2 --sizes 10M       # one side alone, as JSON

The sides are one process with all cores, and ``--processes`` (2) with a part of them each, which share the rows of every
step. All do the same steps of 16 x 512 random tokens, in the loop of ``gptloom pretrain``, with the optimizer and the
rows of a forward pass that it would choose, in fp32 or, where the machine multiplies it fast, in bf16. They take turns;
what is shown of a side is the median over the rounds of its median step, after a first one that is not timed.

The target is 0.9 times the tokens/s of one process. The shares of communication and optimizer are those of the run's
``timing`` events, on average over its processes; waiting for the other one counts as communication.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import harness
import worlds
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from gptloom.config.model import ModelConfig
    from gptloom.data.batch import Batch
    from gptloom.train.optimizers import OptimizerSettings
    from gptloom.train.run import Run
    from gptloom.train.world import World

TARGET = 0.9
SIZES = {"1M": "modern-nano", "10M": "modern-tiny", "124M": "gpt2"}
CAUTION = 0.1  # of the usual learning rate: there is no warm-up, and the bench refuses what does not learn
SAME = 0.02  # how far the sides' first losses may differ: bf16 rounds other sums
DEFAULTS = {"sizes": ["10M", "124M"], "rows": 16, "length": 512, "steps": 2, "rounds": 2}
TINY = {"sizes": ["1M"], "rows": 4, "length": 16, "steps": 2, "rounds": 1}


# ---- one side, in processes of its own -------------------------------------------------------------------------------


def train(world: World, size: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains in the processes of ``world``; what this one of them has seen."""
    import torch

    from gptloom.config.model import ModelConfig, preset
    from gptloom.config.pretrain import PretrainOptions
    from gptloom.observe.machine import memory
    from gptloom.stages.derive import choose_micro_batch
    from gptloom.stages.machine import spread, use_machine
    from gptloom.train.assemble import fresh_model
    from gptloom.train.loop import fit
    from gptloom.train.objective import NextToken
    from gptloom.train.optimizers import Optimizer
    from gptloom.train.run import LoopSettings, Run, RunState
    from gptloom.train.timing import Timing

    threads = max(1, arguments.threads // world.size)
    options = PretrainOptions(data=["random tokens"], device="cpu", precision=precision, threads=threads)
    machine = use_machine(options, world)
    parallel = spread(options, world, machine.device)
    config = ModelConfig(**preset(SIZES[size]))
    free = memory()[1]
    tokens = arguments.rows * arguments.length // world.size
    rows = int(choose_micro_batch(tokens, arguments.length, free and free // world.size, config).value)
    model = fresh_model(config, 0, parallel, machine.dtype)
    optimizer = Optimizer(model, rates(config), machine.dtype, parallel)
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), LoopSettings(1 + arguments.steps, micro_batch=rows), RunState(), parallel)
        batch = random_batch(config, arguments.rows, arguments.length)
        fit(run, NextToken(parallel.cross_entropy), lambda step: batch, model, optimizer, [Timing(), seen])
    seconds = [end - start for start, end in pairwise(seen.ends)]
    return {
        "seconds": seconds,
        "seconds_per_step": statistics.median(seconds),
        "losses": seen.losses,
        "phases": seen.phases,
        "peak_bytes": harness.peak_bytes(),
        "precision": str(machine.dtype).removeprefix("torch."),
        "micro_batch": rows,
        "ln_vocabulary": math.log(config.vocab_size),
        "threads": torch.get_num_threads(),
    }


class Seen:
    """A hook that remembers when each step ended, its loss, and how long its phases took in each process."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.phases: list[dict[str, list[float]]] = []

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train":
            self.ends.append(time.perf_counter())
            self.losses.append(event["loss"])
        if event["type"] == "timing":
            self.phases.append(event["phases"])


def rates(config: ModelConfig) -> OptimizerSettings:
    """The optimizer that gptloom chooses for the model, at a cautious rate."""
    from gptloom.stages.derive import choose_embedding_lr, choose_lr, choose_optimizer
    from gptloom.train.optimizers import OptimizerSettings

    kind: Literal["adamw", "muon"] = "muon" if choose_optimizer(config).value == "muon" else "adamw"
    lr = CAUTION * float(choose_lr(config, kind).value)
    return OptimizerSettings(kind, lr, float(choose_embedding_lr(config, lr).value) if kind == "muon" else None)


def random_batch(config: ModelConfig, rows: int, length: int) -> Batch:
    """The same for every side and step: the loss must fall on it."""
    import torch

    from gptloom.data.batch import Batch

    ids = torch.randint(config.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, length))


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """Both sides in turns, one table for each size and precision."""
    counts = {side_name(count, arguments): count for count in (1, arguments.processes)}
    tables: dict[str, dict[str, Figures]] = {}
    checks: list[Check] = []
    raw = {}
    for size in arguments.sizes:
        for precision in arguments.precision:
            title = f"{size}, {precision}"
            sides = {name: partial(start_side, count, size, precision, arguments) for name, count in counts.items()}
            found = harness.take_turns(sides, arguments.rounds, f"{title}, ")
            check_losses(found)
            title = f"{size} {next(iter(found.values()))[0]['ranks'][0]['precision']}"
            raw[title] = found
            tables[title] = {name: summary(runs, arguments) for name, runs in found.items()}
            one, several = tables[title].values()
            speed = harness.ratio(several["tokens/s"], one["tokens/s"])
            checks.append(Check(f"{title}: tokens/s of one process", speed, TARGET, "×"))
    kept = ("sizes", "rows", "length", "steps", "rounds", "processes", "threads", "precision")
    settings = {name: getattr(arguments, name) for name in kept}
    notes = ["tiny settings: the figures mean nothing and no target is judged"] if arguments.tiny else []
    return Result("processes", settings, tables, [] if arguments.tiny else checks, notes, raw)


def side_name(count: int, arguments: argparse.Namespace) -> str:
    threads = max(1, arguments.threads // count)
    return f"{count} process{'es' if count > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"


def start_side(count: int, size: str, precision: str, arguments: argparse.Namespace, turn: int) -> dict[str, Any]:
    """This script with ``--side``, as a new process."""
    command = [sys.executable, __file__, "--side", str(count), "--sizes", size, "--precision", precision]
    for name in ("rows", "length", "steps", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    return harness.run_json(command)


def check_losses(found: dict[str, list[dict[str, Any]]]) -> None:
    """RuntimeError unless all sides began as surprised as an untrained model is, learned, and learned the same."""
    losses = [(name, run["ranks"][0]["losses"]) for name, runs in found.items() for run in runs]
    ln_vocabulary = next(iter(found.values()))[0]["ranks"][0]["ln_vocabulary"]
    for name, side in losses:
        if abs(side[0] - ln_vocabulary) > 0.5 or not side[-1] < side[0] or abs(side[0] - losses[0][1][0]) > SAME:
            raise RuntimeError(f"{name} does not train as the others: its losses are {side}, theirs {losses[0][1]}")


def summary(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> Figures:
    """Medians over the rounds; of the memory the largest, of all processes together."""
    seconds = harness.median([run["ranks"][0]["seconds_per_step"] for run in runs])
    peaks = [[rank["peak_bytes"] for rank in run["ranks"]] for run in runs]
    return {
        "s/step": seconds,
        "tokens/s": harness.ratio(arguments.rows * arguments.length, seconds),
        "communication %": share(runs, "communication"),
        "optimizer %": share(runs, "optimizer"),
        "memory GB": None if any(None in peak for peak in peaks) else max(map(sum, peaks)) / 1e9,
        "first loss": runs[0]["ranks"][0]["losses"][0],
    }


def share(runs: list[dict[str, Any]], phase: str) -> float | None:
    """Percent of a step's time that goes into ``phase``, on average over the processes; the median of all steps."""
    steps = [phases for run in runs for phases in run["ranks"][0]["phases"]]
    return harness.median([100 * sum(phases[phase]) / sum(map(sum, phases.values())) for phases in steps])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="models, one table each (default: 10M 124M)")
    parser.add_argument("--rows", type=int, help="sequences of a step (default: 16)")
    parser.add_argument("--length", type=int, help="tokens of a sequence (default: 512)")
    parser.add_argument("--steps", type=int, help="timed steps of each side and round (default: 2)")
    parser.add_argument("--rounds", type=int, help="turns of each side (default: 2)")
    parser.add_argument("--processes", type=int, default=2, help="of the second side (default: 2)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side in all (default: the cores)")
    parser.add_argument("--precision", nargs="+", choices=["auto", "fp32", "bf16"], default=["auto"])
    parser.add_argument("--tiny", action="store_true", help="a model of 1M, one round: only to see the bench run")
    parser.add_argument("--side", type=int, metavar="N", help="run N processes alone, and print JSON")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    for name, value in (TINY if arguments.tiny else DEFAULTS).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if min(arguments.steps, arguments.rounds) < 1 or arguments.processes < 2:
        parser.error("--steps and --rounds are at least 1, --processes at least 2")
    if arguments.rows % arguments.processes:
        parser.error(f"{arguments.processes} processes cannot share {arguments.rows} rows evenly")
    if arguments.side is not None and len(arguments.sizes) + len(arguments.precision) > 2:
        parser.error("--side runs one of --sizes in one --precision")
    arguments.threads = arguments.threads or harness.cores()
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side is not None:
        size, precision = arguments.sizes[0], arguments.precision[0]
        return worlds.run_in_processes(arguments.side, lambda world: train(world, size, precision, arguments))
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
