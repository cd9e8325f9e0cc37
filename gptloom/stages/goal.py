"""What a pretraining learns, the next word or hidden ones: its objective, its batches, and what it is tested on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gptloom.config.model import ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved
from gptloom.data.batch import Batch
from gptloom.data.batches import TokenBatches, eval_batches
from gptloom.data.built import TrainingShards, check_enough
from gptloom.data.masked_batches import MaskedBatches, check_enough_masked, masked_eval_batches
from gptloom.data.masked_examples import PairChoice
from gptloom.data.masking import Masking, MaskVocabulary
from gptloom.data.ordered import OrderedBatches
from gptloom.model.init import output_std
from gptloom.stages.foresee import ForeseenTokens
from gptloom.stages.settings import step_sizes
from gptloom.stages.text import Text
from gptloom.tokenizer import Tokenizer
from gptloom.train.objective import MaskedWords, NextToken, Objective
from gptloom.train.parallel import Parallel


def settle_pairs(
    resolved: Resolved[PretrainOptions], base: ModelConfig | None, text: Text
) -> Resolved[PretrainOptions]:
    """How sentences come in pairs, where nobody said: as the base model's head and the text allow."""
    if resolved.options.objective == "next" or resolved.options.pairs is not None:
        return resolved
    if base is not None and not base.pair_head:
        return resolved.derive("pairs", "none", "the base model has no head for them")
    if text.n_training_documents == 1:
        return resolved.derive("pairs", "order", "the text is one document: there is no other to draw from")
    return resolved.derive("pairs", "nsp", "BERT's")


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


def training_batches(
    options: PretrainOptions, context: int, shards: TrainingShards, tokenizer: Tokenizer, seed: int
) -> OrderedBatches:
    """The global batch of every step, for a model of that ``context``."""
    length, sizes = options.row_tokens(context), step_sizes(options)
    if options.objective != "masked":  # runs of before there was a choice do not say
        return TokenBatches(shards.train, length, sizes, seed)
    vocabulary, masking = MaskVocabulary.of(tokenizer, whole_word=options.whole_word), _masking(options)
    pairs = _pairs(options, shards)
    return MaskedBatches(shards.train, length, sizes, seed, vocabulary, pairs=pairs, masking=masking)


def held_out_batches(
    options: PretrainOptions, context: int, shards: TrainingShards, tokenizer: Tokenizer, rows: int
) -> Iterator[Batch]:
    """The validation text in batches of at most ``rows``, the same ones at each evaluation."""
    assert shards.valid is not None
    length = options.row_tokens(context)
    if options.objective != "masked":
        return eval_batches(shards.valid, length, rows)
    vocabulary, masking = MaskVocabulary.of(tokenizer, whole_word=options.whole_word), _masking(options)
    pairs = _pairs(options, shards)
    return masked_eval_batches(shards.valid, length, rows, vocabulary, pairs=pairs, masking=masking)


def _pairs(options: PretrainOptions, shards: TrainingShards) -> PairChoice:
    """As asked for; of tokens that a dry run only foresees no sentences are known, but the number of rows is alike."""
    foreseen = any(isinstance(tokens, ForeseenTokens) for tokens, _ in shards.train)
    assert options.pairs is not None
    return "none" if foreseen else options.pairs


def _masking(options: PretrainOptions) -> Masking:
    return Masking(options.mask_rate, options.masking, options.whole_word)


def check_text(options: PretrainOptions, context: int, shards: TrainingShards) -> None:
    """UserError when the shards do not make a single example to train on, or to validate with."""
    length, validates = options.row_tokens(context), options.split != "none"
    if options.objective != "masked":
        check_enough(shards, length, validates=validates)
    else:
        check_enough_masked(shards, length, _pairs(options, shards), validates=validates)


def check_tokenizer_for(options: PretrainOptions, tokenizer: Tokenizer) -> None:
    """UserError when masked words are to be learned with a vocabulary that has no token for a mask."""
    if options.objective == "masked":
        MaskVocabulary.of(tokenizer, whole_word=options.whole_word)
