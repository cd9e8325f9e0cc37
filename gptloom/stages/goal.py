"""What a pretraining learns, the next word or hidden ones: its objective, its batches, and what it is tested on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.data.batch import Batch
from gptloom.data.batches import eval_batches
from gptloom.data.built import TrainingShards
from gptloom.model.init import output_std
from gptloom.tokenizer import Tokenizer
from gptloom.train.objective import MaskedWords, NextToken, Objective
from gptloom.train.parallel import Parallel


def objective_for(options: PretrainOptions, parallel: Parallel) -> Objective:
    """What a step minimises."""
    if options.objective == "masked":
        return MaskedWords(options.pairs != "none", parallel.cross_entropy)
    return NextToken(parallel.cross_entropy)


def knowing_nothing(options: PretrainOptions, config: ModelConfig) -> float:
    """The loss of who knows nothing: ln V for a word, ln 2 for a pair of sentences."""
    pairs = options.objective == "masked" and options.pairs != "none"
    return math.log(config.vocab_size) + (math.log(2) if pairs else 0.0)


def first_losses(options: PretrainOptions, config: ModelConfig) -> tuple[float, float]:
    """Between what a fresh model's loss must lie: near that of knowing nothing.

    Scores of variance s^2 cost s^2 / 2 on top: hidden states have variance 1, so a matrix of width D and standard
    deviation w makes it D w^2. GPT-1's stream, normed after each branch, still resembles the token that came in, more so
    the fewer layers there are: it begins by expecting that token again.
    """
    expected = knowing_nothing(options, config) + config.d_model * output_std(config) ** 2 / 2
    repeats = config.norm_place == "post" and config.tied_head and not config.masked_head
    return expected - 0.5, expected + (2.5 if repeats else 0.5)


def held_out_batches(
    options: PretrainOptions, config: ModelConfig, shards: TrainingShards, tokenizer: Tokenizer, rows: int
) -> Iterator[Batch]:
    """The validation text in batches of at most ``rows``, the same ones at each evaluation."""
    assert shards.valid is not None
    return eval_batches(shards.valid, options.row_tokens(config.context), rows)


def check_tokenizer_for(options: PretrainOptions, tokenizer: Tokenizer) -> None:
    """UserError when masked words are to be learned with a vocabulary that has no token for a mask."""
    missing = [
        name
        for name, token in (("[MASK]", tokenizer.mask_id), ("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id))
        if token is None
    ]
    if options.objective == "masked" and missing:
        what = f"--objective masked needs tokens that this tokenizer lacks: {', '.join(missing)}"
        raise UserError(Problem(what, options.tokenizer, "--tokenizer wordpiece (trained on the text), or bert"))
