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
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

import harness
import step_sides
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from gptloom.config.model import ModelConfig

FP32, BF16, BF16_COMPILED = "transformers fp32", "transformers bf16", "transformers bf16 compiled"
OURS, OURS_COMPILED = "gptloom", "gptloom compiled"
SIDES = (FP32, BF16, BF16_COMPILED, OURS, OURS_COMPILED)
TARGET_FP32, TARGET_BEST, TARGET_MEMORY = 3.0, 1.0, 1.0
USUAL = {"batch": 4, "length": 512, "rounds": 3, "steps": 5}


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

    from gptloom.data.batch import Batch
    from gptloom.train.objective import NextToken

    torch.set_num_threads(arguments.threads)
    config = model_config(arguments, dropout)
    ids = random_ids(config, arguments.batch, arguments.length)
    inputs, compiled = ids[:, :-1].contiguous(), side.endswith("compiled")

    def train(steps: int) -> step_sides.Trained:
        if side in (OURS, OURS_COMPILED):
            batch = Batch(inputs, ids[:, 1:].contiguous(), torch.ones(inputs.shape))
            return step_sides.train_ours(config, batch, NextToken(), compiled, steps)
        named = {"input_ids": inputs, "labels": inputs}
        return step_sides.train_peer(build_peer(config), named, side != FP32, compiled, steps)

    return step_sides.measure_side(train, arguments, math.log(config.vocab_size))


def build_peer(config: ModelConfig) -> Any:
    """``GPT2LMHeadModel`` of the same shape."""
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
    return GPT2LMHeadModel(theirs)


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """All sides in turns, one table a dropout."""
    names = step_sides.chosen_sides(SIDES, arguments)
    tables: dict[str, dict[str, Figures]] = {}
    checks: list[Check] = []
    raw = {}
    with tempfile.TemporaryDirectory() as cache:
        for dropout in arguments.dropout:
            title = f"dropout {dropout:g}"
            raw[title], tables[title] = step_sides.measure_sides(__file__, names, dropout, arguments, cache)
            checks += compare(title, tables[title])
    kept = ("batch", "length", "rounds", "steps", "warmup", "model", "dropout")
    settings = {name: getattr(arguments, name) for name in kept}
    notes = [step_sides.TINY_NOTE] if arguments.tiny else []
    return Result("train_step", settings, tables, [] if arguments.tiny else checks, notes, raw)


def compare(title: str, sides: dict[str, Figures]) -> list[Check]:
    """The faster of ours against fp32, against the fastest peer, and in memory against bf16."""
    ours, best = step_sides.fastest(sides, ours=True), step_sides.fastest(sides, ours=False)
    speed = partial(step_sides.speedup, sides, ours)
    memory = harness.ratio(sides[ours]["peak GB"], sides[BF16]["peak GB"])
    return [
        Check(f"{title}: {ours}, tokens/s of {FP32}", speed(FP32), TARGET_FP32, "×"),
        Check(f"{title}: {ours}, tokens/s of the fastest peer ({best})", speed(best), TARGET_BEST, "×"),
        Check(f"{title}: {ours}, peak memory of {BF16}", memory, TARGET_MEMORY, "×", at_most=True),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_sides.add_options(parser, SIDES, USUAL)
    parser.add_argument("--model", default="gpt2", help="a GPT-2 preset (default: gpt2)")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1], help="one table each (default: 0 0.1)")
    arguments = step_sides.settle(parser, USUAL)
    if not arguments.model.startswith("gpt2"):
        parser.error(
            f"--model {arguments.model}: the peers are GPT-2s, so it is gpt2, gpt2-medium, gpt2-large or gpt2-xl"
        )
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side is not None:
        print(json.dumps(run_side(arguments.side, arguments.dropout[0], arguments)))
        return 0
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
