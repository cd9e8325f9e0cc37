"""What the benches of a training step share: both sides' loops, what is measured of them, their tables and their options.

A side trains one model on one batch, step after step, in a process of its own; the steps before the first timed one warm
it up (and compile it). A side that does not begin as surprised as an untrained model, or does not learn, is no result.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import Figures

if TYPE_CHECKING:
    from gptloom.config.model import ModelConfig
    from gptloom.data.batch import Batch
    from gptloom.train.objective import Objective

# The rate is small: without a warm-up a larger one lets the first losses rise, and the benches refuse what does not learn.
CLIP, LR, WEIGHT_DECAY, BETAS = 1.0, 1e-4, 0.1, (0.9, 0.95)

Trained = tuple[list[float], list[float]]  # each step's loss, and when it ended


# ---- one side, in a process of its own -------------------------------------------------------------------------------


def train_ours(config: ModelConfig, batch: Batch, objective: Objective, compiled: bool, steps: int) -> Trained:
    """gptloom's own loop in a throw-away run, with its events and its guard, as ``gptloom pretrain`` sets it up."""
    import torch

    from gptloom.model.transformer import Transformer
    from gptloom.train.compiling import compile_blocks
    from gptloom.train.loop import fit
    from gptloom.train.memory import keep_freed_memory
    from gptloom.train.optimizers import Optimizer, OptimizerSettings
    from gptloom.train.precision import choose_dtype
    from gptloom.train.run import LoopSettings, Run

    dtype, _ = choose_dtype("auto", torch.device("cpu"))
    model = Transformer.initialised(config, seed=0)
    keep_freed_memory()  # as gptloom pretrain does
    if compiled:
        compile_blocks(model.blocks)
    optimizer = Optimizer(model, OptimizerSettings("adamw", LR, None, *BETAS, weight_decay=WEIGHT_DECAY), dtype)
    losses, ends = [], []

    def note(event: dict[str, Any], run: Run) -> None:
        if event["type"] == "train":
            losses.append(event["loss"])
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", LoopSettings(steps, clip=CLIP, log_every=10))
        fit(run, objective, lambda step: batch, model, optimizer, [note])
    return losses, ends


def train_peer(model: Any, inputs: dict[str, Any], bf16: bool, compiled: bool, steps: int) -> Trained:
    """A model of ``transformers`` in a plain loop with fused AdamW."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    run = torch.compile(model) if compiled else model
    losses, ends = [], []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = run(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        ends.append(time.perf_counter())
    return losses, ends


def measure_side(
    train: Callable[[int], Trained], arguments: argparse.Namespace, untrained_loss: float
) -> dict[str, Any]:
    """Lets ``train`` make the warm-up and the timed steps. ``untrained_loss``: of a model that knows nothing."""
    import torch

    begun = time.perf_counter()
    losses, ends = train(arguments.warmup + arguments.steps)
    seconds = [end - start for start, end in pairwise(ends)][arguments.warmup - 1 :]
    assert len(seconds) == arguments.steps
    return {
        "seconds": seconds,
        "seconds_per_step": statistics.median(seconds),
        "tokens_per_second": arguments.batch * arguments.length / statistics.median(seconds),
        "warmup_seconds": ends[arguments.warmup - 1] - begun,
        "peak_bytes": harness.peak_bytes(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "untrained_loss": untrained_loss,
        "threads": torch.get_num_threads(),
    }


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure_sides(
    script: str, names: list[str], dropout: float, arguments: argparse.Namespace, cache: str
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Figures]]:
    """Every side in turns, as ``script`` with ``--side``: the raw figures of each round, and a table of them.

    ``cache``: folder of what is compiled; by the first side that meets a kernel, and then kept for the next rounds.
    """
    calls = {name: partial(_start_side, script, name, dropout, arguments, cache) for name in names}
    found = harness.take_turns(calls, arguments.rounds, f"dropout {dropout:g}, ")
    check_sides(found)
    return found, {name: summary(runs) for name, runs in found.items()}


def _start_side(
    script: str, side: str, dropout: float, arguments: argparse.Namespace, cache: str, turn: int
) -> dict[str, Any]:
    command = [sys.executable, script, "--side", side, "--dropout", str(dropout), "--model", arguments.model]
    for name in ("batch", "length", "steps", "warmup", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    return harness.run_json(command + ["--tiny"] * arguments.tiny, {"TORCHINDUCTOR_CACHE_DIR": cache})


def check_sides(found: dict[str, list[dict[str, Any]]]) -> None:
    """RuntimeError unless every side began as surprised as an untrained model is, and learned."""
    for name, runs in found.items():
        for run in runs:
            if abs(run["first_loss"] - run["untrained_loss"]) > 0.5 or not run["last_loss"] < run["first_loss"]:
                raise RuntimeError(
                    f"{name} does not train: its loss went from {run['first_loss']} to {run['last_loss']}"
                )


def summary(runs: list[dict[str, Any]]) -> Figures:
    """Medians over the rounds; of the memory the largest."""
    peaks = [run["peak_bytes"] for run in runs]
    return {
        "s/step": harness.median([run["seconds_per_step"] for run in runs]),
        "tokens/s": harness.median([run["tokens_per_second"] for run in runs]),
        "peak GB": max(peaks) / 1e9 if None not in peaks else None,
        "warm-up s": harness.median([run["warmup_seconds"] for run in runs]),
        "first loss": runs[0]["first_loss"],
    }


def fastest(sides: dict[str, Figures], ours: bool) -> str:
    """The side with the most tokens/s, of ours or of the peers'."""
    names = [name for name in sides if name.startswith("gptloom") == ours]
    return max(names, key=lambda name: sides[name]["tokens/s"] or 0.0)


def speedup(sides: dict[str, Figures], ours: str, peer: str) -> float | None:
    """Tokens/s of ``ours`` over those of ``peer``."""
    return harness.ratio(sides[ours]["tokens/s"], sides[peer]["tokens/s"])


# ---- options ---------------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, sides: tuple[str, ...], usual: dict[str, int]) -> None:
    """The options of a bench of training steps; ``usual`` are the defaults that ``--tiny`` replaces."""
    parser.add_argument("--batch", type=int, help=f"sequences of a step (default: {usual['batch']})")
    parser.add_argument("--length", type=int, help=f"tokens of a sequence (default: {usual['length']})")
    parser.add_argument("--rounds", type=int, help=f"processes of each side (default: {usual['rounds']})")
    parser.add_argument("--steps", type=int, help=f"timed steps of each process (default: {usual['steps']})")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default: 2)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: the cores)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled sides out")
    parser.add_argument("--tiny", action="store_true", help="a two-block model, one round: only to see the bench run")
    parser.add_argument("--side", choices=sides, help="run this side alone, here, and print JSON")
    harness.add_json_option(parser)


def settle(parser: argparse.ArgumentParser, usual: dict[str, int]) -> argparse.Namespace:
    """The options given, with the defaults; ends the program where they can't be run."""
    arguments = parser.parse_args()
    tiny = {"batch": 2, "length": 16, "rounds": 1, "steps": 2}
    for name, value in (tiny if arguments.tiny else usual).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if min(arguments.steps, arguments.warmup, arguments.rounds) < 1:
        parser.error("--steps, --warmup and --rounds are at least 1")
    arguments.threads = arguments.threads or harness.cores()
    return arguments


def chosen_sides(sides: tuple[str, ...], arguments: argparse.Namespace) -> list[str]:
    """The sides, without those that compile where they are left out."""
    return [name for name in sides if not (name.endswith("compiled") and arguments.no_compile)]


TINY_NOTE = "tiny settings: the figures mean nothing and no target is judged"
