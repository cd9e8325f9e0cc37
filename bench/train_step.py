"""How fast a GPT-2 124M trains, beside ``transformers``: forward, backward, clipping and AdamW's update.

    python bench/train_step.py [--batch 4] [--length 512] [--rounds 3] [--steps 5] [--model gpt2] [--json FILE]
    python bench/train_step.py --side "gptloom compiled" --dropout 0      # one side alone, as JSON

Every side is a process of its own with all cores, and they take turns; what is shown of a side is the median over the
rounds of its median step. Each trains a model with random weights of the same shape on the same random tokens; the
steps before the first timed one warm it up (and compile it). Ours is the loop that ``gptloom pretrain`` runs, with its
events and its guard. One table a dropout: 0 is what papers pretrain with, 0.1 is GPT-2's default in ``transformers``.

Targets: 3 times the tokens/s of ``transformers`` in fp32, no fewer than the fastest of the peers, and no more memory
than ``transformers`` under bf16 autocast.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from gptloom.config.model import ModelConfig

FP32, BF16, BF16_COMPILED = "transformers fp32", "transformers bf16", "transformers bf16 compiled"
OURS, OURS_COMPILED = "gptloom", "gptloom compiled"
SIDES = (FP32, BF16, BF16_COMPILED, OURS, OURS_COMPILED)
TARGET_FP32, TARGET_BEST, TARGET_MEMORY = 3.0, 1.0, 1.0
# The rate is small: without a warm-up a larger one lets the first losses rise, and the bench refuses what does not learn.
CLIP, LR, WEIGHT_DECAY, BETAS = 1.0, 1e-4, 0.1, (0.9, 0.95)
TINY = {"batch": 2, "length": 16, "rounds": 1, "steps": 2}


# ---- one side, in a process of its own -------------------------------------------------------------------------------


def model_config(arguments: argparse.Namespace, dropout: float) -> ModelConfig:
    """The shape that all sides train: a GPT-2, with ``--tiny`` shrunk to two narrow blocks."""
    from gptloom.config.model import ModelConfig, preset

    fields = {**preset(arguments.model), "dropout": dropout}
    if arguments.tiny:
        fields.update(vocab_size=101, context=arguments.length, n_layer=2, n_head=2, d_model=16)
    return ModelConfig(**fields)


def random_ids(config: ModelConfig, batch: int, length: int) -> Any:
    """[batch, length + 1] ids, the same for every side and step: the loss must fall on them."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(config.vocab_size, (batch, length + 1), generator=generator)


def run_side(side: str, dropout: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains ``side`` for the warm-up and the timed steps."""
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = model_config(arguments, dropout)
    ids = random_ids(config, arguments.batch, arguments.length)
    steps = arguments.warmup + arguments.steps
    compiled = side.endswith("compiled")
    train = (
        partial(train_ours, compiled) if side in (OURS, OURS_COMPILED) else partial(train_peer, side != FP32, compiled)
    )
    begun = time.perf_counter()
    losses, ends = train(config, ids, steps)
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
        "ln_vocabulary": math.log(config.vocab_size),
        "threads": torch.get_num_threads(),
    }


def train_peer(
    bf16: bool, compiled: bool, config: ModelConfig, ids: Any, steps: int
) -> tuple[list[float], list[float]]:
    """``GPT2LMHeadModel`` in a plain loop with fused AdamW; each step's loss, and when it ended."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_positions": config.context,
    }
    drops = {f"{place}_pdrop": config.dropout for place in ("resid", "embd", "attn")}
    torch.manual_seed(0)
    # Without a cache of keys and values, which training has no use for and `transformers` keeps by default.
    theirs = GPT2Config(vocab_size=config.vocab_size, use_cache=False, bos_token_id=0, eos_token_id=0, **shape, **drops)
    model = GPT2LMHeadModel(theirs)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    run = torch.compile(model) if compiled else model
    ids = ids[:, :-1].contiguous()
    losses, ends = [], []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = run(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        ends.append(time.perf_counter())
    return losses, ends


def train_ours(compiled: bool, config: ModelConfig, ids: Any, steps: int) -> tuple[list[float], list[float]]:
    """gptloom's own loop in a throw-away run; each step's loss, and when it ended."""
    import torch

    from gptloom.data.batch import Batch
    from gptloom.model.transformer import Transformer
    from gptloom.train.compiling import compile_blocks
    from gptloom.train.loop import fit
    from gptloom.train.memory import keep_freed_memory
    from gptloom.train.objective import NextToken
    from gptloom.train.optimizers import Optimizer, OptimizerSettings
    from gptloom.train.precision import choose_dtype
    from gptloom.train.run import LoopSettings, Run

    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(ids.shape[0], ids.shape[1] - 1))
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
        fit(run, NextToken(), lambda step: batch, model, optimizer, [note])
    return losses, ends


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """All sides in turns, one table a dropout."""
    names = [name for name in SIDES if not (name.endswith("compiled") and arguments.no_compile)]
    tables: dict[str, dict[str, Figures]] = {}
    checks: list[Check] = []
    raw = {}
    with tempfile.TemporaryDirectory() as cache:
        for dropout in arguments.dropout:
            title = f"dropout {dropout:g}"
            calls = {name: partial(start_side, name, dropout, arguments, cache) for name in names}
            raw[title] = harness.take_turns(calls, arguments.rounds, f"{title}, ")
            check_sides(raw[title])
            tables[title] = {name: summary(found) for name, found in raw[title].items()}
            checks += compare(title, tables[title])
    kept = ("batch", "length", "rounds", "steps", "warmup", "model", "dropout")
    settings = {name: getattr(arguments, name) for name in kept}
    notes = ["tiny settings: the figures mean nothing and no target is judged"] if arguments.tiny else []
    return Result("train_step", settings, tables, [] if arguments.tiny else checks, notes, raw)


def start_side(side: str, dropout: float, arguments: argparse.Namespace, cache: str, turn: int) -> dict[str, Any]:
    """This script with ``--side``, as a new process."""
    command = [sys.executable, __file__, "--side", side, "--dropout", str(dropout), "--model", arguments.model]
    for name in ("batch", "length", "steps", "warmup", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    # Compiled anew by the first side that meets a kernel, and then kept for the next rounds: compiling is not timed.
    return harness.run_json(command + ["--tiny"] * arguments.tiny, {"TORCHINDUCTOR_CACHE_DIR": cache})


def check_sides(found: dict[str, list[dict[str, Any]]]) -> None:
    """RuntimeError unless every side began as surprised as an untrained model is, and learned."""
    for name, runs in found.items():
        for run in runs:
            if abs(run["first_loss"] - run["ln_vocabulary"]) > 0.5 or not run["last_loss"] < run["first_loss"]:
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


def compare(title: str, sides: dict[str, Figures]) -> list[Check]:
    """The faster of ours against fp32, against the fastest peer, and in memory against bf16."""

    def speed(name: str) -> float:
        return sides[name]["tokens/s"] or 0.0

    ours = max((name for name in sides if name.startswith(OURS)), key=speed)
    best = max((name for name in sides if not name.startswith(OURS)), key=speed)
    memory = harness.ratio(sides[ours]["peak GB"], sides[BF16]["peak GB"])
    return [
        Check(f"{title}: {ours}, tokens/s of {FP32}", speed(ours) / speed(FP32), TARGET_FP32, "×"),
        Check(f"{title}: {ours}, tokens/s of the fastest peer ({best})", speed(ours) / speed(best), TARGET_BEST, "×"),
        Check(f"{title}: {ours}, peak memory of {BF16}", memory, TARGET_MEMORY, "×", at_most=True),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="sequences of a step (default: 4)")
    parser.add_argument("--length", type=int, help="tokens of a sequence (default: 512)")
    parser.add_argument("--rounds", type=int, help="processes of each side (default: 3)")
    parser.add_argument("--steps", type=int, help="timed steps of each process (default: 5)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default: 2)")
    parser.add_argument("--model", default="gpt2", help="a GPT-2 preset (default: gpt2)")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1], help="one table each (default: 0 0.1)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each side (default: the cores)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled sides out")
    parser.add_argument("--tiny", action="store_true", help="a two-block model, one round: only to see the bench run")
    parser.add_argument("--side", choices=SIDES, help="run this side alone, here, and print JSON")
    harness.add_json_option(parser)
    arguments = parser.parse_args()
    for name, value in (TINY if arguments.tiny else {"batch": 4, "length": 512, "rounds": 3, "steps": 5}).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if min(arguments.steps, arguments.warmup, arguments.rounds) < 1:
        parser.error("--steps, --warmup and --rounds are at least 1")
    if not arguments.model.startswith("gpt2"):
        parser.error(
            f"--model {arguments.model}: the peers are GPT-2s, so it is gpt2, gpt2-medium, gpt2-large or gpt2-xl"
        )
    arguments.threads = arguments.threads or harness.cores()
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side is not None:
        print(json.dumps(run_side(arguments.side, arguments.dropout[0], arguments)))
        return 0
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
