"""What a user did not say: model size, batch, learning rate and length of a pretraining, each by a rule with a reason.

Every rule returns its value and the sentence that explains it. Pure functions: what is measured comes in as a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gptloom.config.model import OWN_FAMILIES, ModelConfig, family_presets, preset
from gptloom.data.step_sizes import StepSizes
from gptloom.model.counting import count_parameters, training_flops_per_token
from gptloom.observe.numbers import human_count, human_time

AIM_MINUTES = 10.0
AIM_PASSES = 4.0

# Exponents and factors of the loss law refitted to the Chinchilla runs (Besiroglu et al. 2024, arXiv 2404.10102).
# Only the balance of the two terms is used; the constants themselves belong to another text and tokenizer.
LAW_A, LAW_ALPHA, LAW_B, LAW_BETA = 482.01, 0.3478, 2085.43, 0.3658


PARAMETERS_PER_TOKEN = 2.0  # at most, of the tokens seen


class Choice(NamedTuple):
    """A derived value and the rule it came from."""

    value: float | int | str
    rule: str


def efficiency(config: ModelConfig) -> float:
    """Share of the matrix peak that a training of this width reaches, roughly: narrow models are more overhead."""
    return min(0.7, 0.2 + config.d_model / 1200)


def choose_size(
    family: str, n_tokens: int, vocab_size: int, peak: float, minutes: float, passes: float, scored: float = 1.0
) -> Choice:
    """The preset of ``family`` with the lowest predicted loss after ``minutes`` at ``peak`` FLOP/s and at most ``passes``."""
    best, lowest, seen = "", math.inf, 0.0
    for name in family_presets(family):
        config = ModelConfig(**{**preset(name), "vocab_size": vocab_size})
        reach = peak * efficiency(config) * minutes * 60 / training_flops_per_token(config, scored=scored)
        tokens = min(reach, passes * n_tokens)
        non_embedding = count_parameters(config).non_embedding
        if best and non_embedding > PARAMETERS_PER_TOKEN * tokens:
            break  # the law knows nothing of a model that learns a small text by heart
        loss = LAW_A / non_embedding**LAW_ALPHA + LAW_B / tokens**LAW_BETA
        if loss < lowest:
            best, lowest, seen = name, loss, tokens
    aim = f"{human_time(minutes * 60)} and {passes:g} passes over {human_count(n_tokens)} tokens"
    return Choice(best, f"lowest predicted loss within {aim} ({human_count(seen)} tokens seen)")


def choose_context(config: ModelConfig, n_tokens: int) -> Choice:
    """The preset's context, halved until the training text holds at least 64 windows."""
    context = config.context
    while context > 16 and n_tokens < 64 * context:
        context //= 2
    rule = (
        "the preset's" if context == config.context else f"the longest of which {human_count(n_tokens)} tokens hold 64"
    )
    return Choice(context, rule)


def choose_batch_tokens(total_tokens: float, context: int) -> Choice:
    """A power of two that leaves some 1,200 steps, from 2,048 (fewer keep no machine busy) to GPT-3's half a million."""
    wanted = min(max(total_tokens / 1200, 2048), 2**19)
    batch = 2 ** round(math.log2(wanted))
    batch = max(context, batch // context * context)
    if batch > total_tokens / 1200 * 1.5:
        return Choice(batch, "the least that keeps a machine busy")
    return Choice(batch, f"about 1,200 steps over {human_count(total_tokens)} tokens")


def choose_micro_batch(batch_tokens: int, context: int, memory: int | None, config: ModelConfig) -> Choice:
    """Rows of a forward pass: at most 8,192 tokens, and at most a quarter of the memory for activations."""
    per_token = 2 * config.n_layer * (14 * config.d_model + 4 * config.d_ff) + 8 * config.d_model
    tokens = min(8192, int((memory or 8 << 30) / 4 / per_token))
    rows = max(1, min(batch_tokens, tokens) // context)
    while batch_tokens // context % rows:
        rows -= 1
    return Choice(rows, f"{rows * context:,} tokens at a time: more are no faster on this machine")


def choose_largest_micro_batch(rows: int, there: int | None, needs: Callable[[int], int]) -> Choice:
    """``--micro-batch auto``: all ``rows`` of the step, halved until the bytes they ``need`` are predicted to be ``there``.

    The training's own first steps then show whether they are, and halve them further if not.
    """
    asked = rows
    while rows > 1 and there is not None and needs(rows) > there:
        rows //= 2
    return Choice(rows, "auto: all of the batch" if rows == asked else "auto: as many as are predicted to fit")


def choose_optimizer(config: ModelConfig) -> Choice:
    """AdamW where the paper had Adam, Muon for our own families."""
    if config.family in OWN_FAMILIES:
        return Choice("muon", "reaches the same loss in about two thirds of AdamW's steps")
    return Choice("adamw", "the papers of this family had Adam")


def choose_lr(config: ModelConfig, optimizer: str) -> Choice:
    """AdamW: GPT-3's table as a power of the size; with the norm after each branch, GPT-1's rate is the limit.

    Muon: an update of the same spectral norm at every width.
    """
    if optimizer == "muon":
        return Choice(float(f"{0.15 / config.d_model**0.5:.2g}"), f"0.15 / sqrt(width {config.d_model})")
    n = count_parameters(config).non_embedding
    if config.norm_place == "post":
        lr = min(1e-3, 2.5e-4 * (85e6 / n) ** 0.27)
        return Choice(float(f"{lr:.1e}"), f"GPT-1's rate, as GPT-3's change with {human_count(n)} parameters")
    lr = min(2e-3, 6e-4 * (85e6 / n) ** 0.27)
    return Choice(float(f"{lr:.1e}"), f"GPT-3's rates (table 2.1) as a power of {human_count(n)} parameters")


def choose_embedding_lr(config: ModelConfig, lr: float | None) -> Choice:
    """AdamW's rate beside Muon. ``fast`` begins with embeddings fifty times as large, which move as much faster."""
    assert lr is not None
    factor = 3 if config.init == "fast" else 1
    return Choice(
        float(f"{factor * lr:.2g}"), "as lr" if factor == 1 else f"{factor} times lr: fast's embeddings are large"
    )


def choose_warmup(steps: int) -> Choice:
    """2 % of the steps, at least 1 and at most 2,000."""
    return Choice(max(min(steps // 2, 1), min(2000, round(0.02 * steps))), "2 % of the steps")


class Steps(NamedTuple):
    """How long a run is, which budget decided it, and what it amounts to."""

    steps: int
    rule: str


def count_steps(
    sizes: StepSizes,
    row_tokens: int,
    tokens_per_epoch: int,
    seconds_per_step: float,
    *,
    max_steps: int | None,
    max_epochs: float | None,
    max_minutes: float | None,
    max_train_tokens: int | None,
) -> Steps:
    """The first budget that is reached; with none given, ten minutes or four passes. Always at least one step.

    ``sizes``: rows of the steps, of ``row_tokens`` each; ``seconds_per_step``: of a full one.
    """

    def trained_on(tokens: float) -> int:
        return sizes.steps_for(tokens / row_tokens)

    def done_in(minutes: float) -> int:
        return sizes.steps_within(sizes.full * minutes * 60 / seconds_per_step)

    budgets = []
    if max_steps is not None:
        budgets.append(Steps(max_steps, "--max-steps"))
    if max_epochs is not None:
        budgets.append(Steps(trained_on(max_epochs * tokens_per_epoch), f"{max_epochs:g} passes"))
    if max_train_tokens is not None:
        budgets.append(Steps(trained_on(max_train_tokens), f"{human_count(max_train_tokens)} tokens"))
    speed = f"at {seconds_per_step:.3g} s a step, measured here"
    if max_minutes is not None:
        budgets.append(Steps(done_in(max_minutes), f"{max_minutes:g} minutes {speed}"))
    if not budgets:
        budgets.append(Steps(done_in(AIM_MINUTES), f"{AIM_MINUTES:g} minutes {speed}"))
        budgets.append(Steps(trained_on(AIM_PASSES * tokens_per_epoch), f"{AIM_PASSES:g} passes"))
    first = min(budgets)
    return Steps(max(1, first.steps), first.rule)
