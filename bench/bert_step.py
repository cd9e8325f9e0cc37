"""How fast a BERT-base pretrains, beside ``transformers``: masked words and sentence pairs, with AdamW's update.

    python bench/bert_step.py [--batch 8] [--length 128] [--rounds 3] [--steps 5] [--model bert-base] [--json FILE]
    python bench/bert_step.py --side "gptloom compiled"      # one side alone, as JSON

Every side is a process of its own with all cores, and they take turns; what is shown of a side is the median over the
rounds of its median step. Each trains a model with random weights of the same shape on the same random tokens, of which
15 % are to be guessed, in rows of two segments and no padding, with dropout 0.1 everywhere. Ours is the loop that
``gptloom pretrain --objective masked`` runs, with its events and its guard. The peers are ``BertForPreTraining``: in
fp32, under bf16 autocast with each of its two attentions, and compiled.

Targets: 3 times the tokens/s of ``transformers`` in fp32, and 1.2 times those of the fastest of the peers.
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
    from gptloom.data.batch import Batch

FP32, BF16, BF16_EAGER = "transformers fp32", "transformers bf16", "transformers bf16, plain attention"
BF16_COMPILED, BF16_EAGER_COMPILED = "transformers bf16 compiled", "transformers bf16, plain attention, compiled"
OURS, OURS_COMPILED = "gptloom", "gptloom compiled"
SIDES = (FP32, BF16, BF16_EAGER, BF16_COMPILED, BF16_EAGER_COMPILED, OURS, OURS_COMPILED)
TARGET_FP32, TARGET_BEST = 3.0, 1.2
USUAL = {"batch": 8, "length": 128, "rounds": 3, "steps": 5}
MASK_RATE, MASK_ID = 0.15, 4  # the share of the tokens to be guessed, and the id that hides them


# ---- one side, in a process of its own -------------------------------------------------------------------------------


def model_config(arguments: argparse.Namespace, dropout: float) -> ModelConfig:
    """The shape that all sides train: a BERT with both heads, with ``--tiny`` shrunk to two narrow blocks."""
    from gptloom.config.model import ModelConfig, preset

    fields = {**preset(arguments.model), "dropout": dropout}
    if arguments.tiny:
        fields.update(vocab_size=101, context=arguments.length, n_layer=2, n_head=2, d_model=64)
    return ModelConfig(**fields)


def random_batch(config: ModelConfig, rows: int, length: int) -> Batch:
    """Random words in two segments, the same for every side and step: the loss must fall on them."""
    import torch

    from gptloom.data.batch import Batch

    generator = torch.Generator().manual_seed(1)
    words = torch.randint(config.vocab_size, (rows, length), generator=generator)
    chosen = torch.rand(rows, length, generator=generator).argsort() < round(MASK_RATE * length)
    return Batch(
        words.masked_fill(chosen, MASK_ID),
        words,
        chosen.float(),
        segment_ids=(torch.arange(length) >= length // 2).long().expand(rows, length).contiguous(),
        pair_labels=torch.arange(rows) % 2,
    )


def run_side(side: str, dropout: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains ``side`` for the warm-up and the timed steps."""
    import torch

    from gptloom.train.objective import MaskedWords

    torch.set_num_threads(arguments.threads)
    config = model_config(arguments, dropout)
    batch, compiled = random_batch(config, arguments.batch, arguments.length), side.endswith("compiled")

    def train(steps: int) -> step_sides.Trained:
        if side in (OURS, OURS_COMPILED):
            return step_sides.train_ours(config, batch, MaskedWords(pairs=True), compiled, steps)
        peer = build_peer(config, "eager" if "plain attention" in side else "sdpa")
        return step_sides.train_peer(peer, peer_inputs(batch), side != FP32, compiled, steps)

    return step_sides.measure_side(train, arguments, math.log(config.vocab_size) + math.log(2))


def build_peer(config: ModelConfig, attention: str) -> Any:
    """``BertForPreTraining`` of the same shape."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    theirs = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        intermediate_size=config.d_ff,
        max_position_embeddings=config.context,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    return BertForPreTraining(theirs)


def peer_inputs(batch: Batch) -> dict[str, Any]:
    """The batch under the names of ``transformers``, where -100 marks what need not be guessed."""
    return {
        "input_ids": batch.ids,
        "token_type_ids": batch.segment_ids,
        "labels": batch.targets.masked_fill(batch.weights == 0, -100),
        "next_sentence_label": batch.pair_labels,
    }


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    """All sides in turns."""
    names = step_sides.chosen_sides(SIDES, arguments)
    title = f"dropout {arguments.dropout:g}"
    with tempfile.TemporaryDirectory() as cache:
        raw, sides = step_sides.measure_sides(__file__, names, arguments.dropout, arguments, cache)
    kept = ("batch", "length", "rounds", "steps", "warmup", "model", "dropout")
    settings = {name: getattr(arguments, name) for name in kept}
    notes = [step_sides.TINY_NOTE] if arguments.tiny else []
    checks = [] if arguments.tiny else compare(sides)
    return Result("bert_step", settings, {title: sides}, checks, notes, {title: raw})


def compare(sides: dict[str, Figures]) -> list[Check]:
    """The faster of ours against fp32, and against the fastest peer."""
    ours, best = step_sides.fastest(sides, ours=True), step_sides.fastest(sides, ours=False)
    speed = partial(step_sides.speedup, sides, ours)
    return [
        Check(f"{ours}, tokens/s of {FP32}", speed(FP32), TARGET_FP32, "×"),
        Check(f"{ours}, tokens/s of the fastest peer ({best})", speed(best), TARGET_BEST, "×"),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_sides.add_options(parser, SIDES, USUAL)
    parser.add_argument("--model", default="bert-base", help="a BERT preset (default: bert-base)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of all sides (default: 0.1, as in the paper)")
    arguments = step_sides.settle(parser, USUAL)
    if not arguments.model.startswith("bert-"):
        parser.error(f"--model {arguments.model}: the peers are BERTs, so it is one of bert-tiny to bert-large")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.side is not None:
        print(json.dumps(run_side(arguments.side, arguments.dropout, arguments)))
        return 0
    return harness.finish(measure(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
