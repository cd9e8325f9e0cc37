"""The options that nobody gave: optimizer, batch, rates, schedule and pace of a pretraining, filled in with their rules."""

from __future__ import annotations

from collections.abc import Sequence

from gptloom.config.errors import Problem, UserError
from gptloom.config.excerpt import beginning
from gptloom.config.model import OWN_FAMILIES, ModelConfig
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.problems import flag
from gptloom.config.resolve import DERIVED, Resolved
from gptloom.data.built import TrainingShards
from gptloom.observe.machine import memory
from gptloom.stages.derive import (
    Choice,
    Steps,
    choose_batch_tokens,
    choose_embedding_lr,
    choose_largest_micro_batch,
    choose_lr,
    choose_micro_batch,
    choose_optimizer,
    choose_warmup,
)
from gptloom.stages.machine import Machine, choose_strategy, process_memory
from gptloom.stages.preflight import check_memory, device_memory
from gptloom.stages.settings import decay_end, warmup_steps
from gptloom.tokenizer import Tokenizer
from gptloom.train.parallel import check_heads, check_rows


def choose_optimization(
    resolved: Resolved[PretrainOptions],
    config: ModelConfig,
    expected_tokens: float,
    machine: Machine,
) -> Resolved[PretrainOptions]:
    """Optimizer, rates, batch, schedule and strategy for a run over about ``expected_tokens``.

    UserError when memory is too small, or the processes cannot share model or batch.
    """
    options, world = resolved.options, machine.world
    check_heads(config, options.tensor_parallel)
    check_sequence_length(options, config.context)
    shares, length = world.size // options.tensor_parallel, options.row_tokens(config.context)
    if options.batch_tokens is None:
        tokens, rule = choose_batch_tokens(expected_tokens, length)
        even = shares * length
        if int(tokens) % even:
            tokens, rule = -(-int(tokens) // even) * even, f"{rule}, in equal shares for {shares} processes"
        resolved = resolved.derive("batch_tokens", tokens, rule)
    batch_tokens = resolved.options.batch_tokens
    assert batch_tokens is not None
    check_batch(batch_tokens, length, shares)
    check_ramp(options.batch_ramp, batch_tokens, length, shares)
    first_tokens = options.batch_ramp[0] if options.batch_ramp else batch_tokens
    if options.micro_batch is None:
        free = memory()[1]
        free = free and free // world.local_size
        resolved = resolved.derive("micro_batch", *choose_micro_batch(first_tokens // shares, length, free, config))
    elif options.micro_batch == "auto":  # as many as fit, when it is known how the model is spread
        resolved = settle_micro_batch(resolved, 1, "auto")
    if options.optimizer is None:
        resolved = resolved.derive("optimizer", *choose_optimizer(config))
    optimizer = resolved.options.optimizer
    assert optimizer is not None
    if options.lr is None:
        resolved = resolved.derive("lr", *choose_lr(config, optimizer))
    if options.embedding_lr is None and optimizer == "muon":
        resolved = resolved.derive("embedding_lr", *choose_embedding_lr(config, resolved.options.lr))
    if options.schedule is None:
        resolved = resolved.derive("schedule", *choose_schedule(config))
    if options.final_lr is None:
        final = 0.1 if resolved.options.schedule == "cosine" else 0.0
        resolved = resolved.derive("final_lr", final, f"usual for a {resolved.options.schedule} schedule")
    resolved = choose_strategy(resolved, config, machine)
    if options.micro_batch == "auto":
        resolved = _largest_micro_batch(resolved, first_tokens // shares // length, config, machine)
    needed = process_memory(resolved.options, config, machine)
    there = device_memory(machine.device, world.local_size)
    shards = resolved.options.strategy in ("fsdp", "hsdp")
    check_memory(config, needed, there, length, machine.dtype, shards=shards)
    return resolved


def choose_schedule(config: ModelConfig) -> Choice:
    """The paper's where there is one, else one that a longer run can go on from."""
    if config.family in OWN_FAMILIES:
        return Choice("trapezoid", "can be extended later")
    if config.mask == "bidirectional":
        return Choice("linear", "BERT's")
    return Choice("cosine", "that of the GPT papers")


def check_sequence_length(options: PretrainOptions, context: int) -> None:
    """UserError when rows are to be longer than the model reads."""
    if options.sequence_length is not None and options.sequence_length > context:
        what = f"--sequence-length {options.sequence_length} is more than the model's context {context}"
        raise UserError(Problem(what, mend=f"--sequence-length {context} or less"))


def check_batch(batch_tokens: int, length: int, shares: int) -> None:
    """UserError, with what would do, when a step's tokens are no whole rows of ``length``, or those no equal ``shares``."""
    if batch_tokens % length:
        near = max(1, round(batch_tokens / length / shares)) * shares * length
        what = f"--batch-tokens {batch_tokens} is not a multiple of the context {length}"
        raise UserError(Problem(what, mend=f"--batch-tokens {near}"))
    check_rows(batch_tokens // length, length, shares)


def check_ramp(ramp: Sequence[int], batch_tokens: int, length: int, shares: int) -> None:
    """UserError, with what would do, when a batch cannot grow to ``batch_tokens`` in equal ``shares`` of whole rows."""
    if not ramp:
        return
    even = shares * length
    if ramp[0] % even or not 0 < ramp[0] < batch_tokens:
        near = min(max(1, round(ramp[0] / even)) * even, max(even, (batch_tokens - 1) // even * even))
        parts = f"{length} tokens" if shares == 1 else f"{shares} rows of {length} tokens, one for each process"
        what = f"--batch-ramp begins with {ramp[0]} tokens: not a multiple of {parts}, below {batch_tokens}"
        raise UserError(Problem(what, mend=f"--batch-ramp {near} {ramp[1]}"))


def check_warmup(options: PretrainOptions, steps: int) -> None:
    """UserError when the learning rate would still be rising in the second half of the run, or where it is to be down."""
    if options.warmup is not None and options.warmup > max(1, steps // 2):
        what = f"--warmup {options.warmup} is longer than the run of {steps:,} steps allows, half of it"
        raise UserError(Problem(what, mend=f"--warmup {choose_warmup(steps).value}, or a longer run"))
    unknown = options.warmup is None and options.warmup_tokens is None
    if unknown or options.batch_tokens is None or options.context is None:
        return  # what the warm-up is, or what tokens are in steps, is chosen later
    warmup, end = warmup_steps(options), decay_end(options)
    if options.warmup_tokens is not None and warmup > max(1, steps // 2):
        what = (
            f"--warmup-tokens {options.warmup_tokens} are {warmup:,} steps; the run has {steps:,}, of which half may be"
        )
        raise UserError(Problem(what, mend="a shorter warm-up, or a longer run"))
    if end is not None and warmup >= end:
        what = f"--decay-tokens {options.decay_tokens} end at step {end:,}, within the warm-up of {warmup:,} steps"
        raise UserError(Problem(what, mend="a later end, or a shorter warm-up"))


def check_validated(options: PretrainOptions, validates: bool) -> None:
    """UserError for options that look at a validation that does not take place."""
    if validates:
        return
    mend = "--valid FILE, --split tail, or leave it out"
    pointless = [name for name in ("patience", "limit_batches") if getattr(options, name) is not None]
    if pointless:
        raise UserError(
            *(Problem(f"{flag(name)} needs validation text, and there is none", mend=mend) for name in pointless)
        )


def _largest_micro_batch(
    resolved: Resolved[PretrainOptions], rows: int, config: ModelConfig, machine: Machine
) -> Resolved[PretrainOptions]:
    """Up to ``rows``, a process's share of a batch; they count as derived, so that they may be halved later."""
    available = memory()[1]
    there = available and available // machine.world.local_size
    if machine.device.type == "cuda":
        there = device_memory(machine.device)

    def needs(rows: int) -> int:
        return process_memory(resolved.options.model_copy(update={"micro_batch": rows}), config, machine)

    found = choose_largest_micro_batch(rows, there, needs)
    return settle_micro_batch(resolved, int(found.value), found.rule)


def settle_micro_batch(resolved: Resolved[PretrainOptions], rows: int, rule: str) -> Resolved[PretrainOptions]:
    """The options with ``rows`` of a forward pass, found by ``rule``."""
    options = resolved.options.model_copy(update={"micro_batch": rows})
    sources = {**resolved.sources, "micro_batch": DERIVED}
    return Resolved(options, sources, {**resolved.rules, "micro_batch": rule})


def choose_pace(
    resolved: Resolved[PretrainOptions],
    steps: Steps,
    seconds_per_step: float,
    shards: TrainingShards,
    config: ModelConfig,
    tokenizer: Tokenizer,
) -> Resolved[PretrainOptions]:
    """Warm-up, and how often the run speaks, evaluates and saves; an evaluation takes a tenth of its interval at most.

    ``seconds_per_step``: the mean over the run.
    """
    options = resolved.options
    check_validated(options, shards.valid is not None)
    if options.warmup is None and options.warmup_tokens is None:
        resolved = resolved.derive("warmup", *choose_warmup(steps.steps))
    check_warmup(resolved.options, steps.steps)
    if options.max_steps is None:
        resolved = resolved.derive("max_steps", steps.steps, steps.rule)
    eval_every = options.eval_every or max(1, round(steps.steps / 10))
    if options.eval_every is None:
        resolved = resolved.derive("eval_every", eval_every, "ten evaluations")
    if options.save_every is None:
        resolved = resolved.derive("save_every", eval_every, "a checkpoint at each evaluation")
    if options.log_every is None:
        every = max(1, round(min(steps.steps / 100, 2 / seconds_per_step)))
        resolved = resolved.derive("log_every", every, "about every two seconds")
    if options.limit_batches is None and shards.valid is not None:
        assert isinstance(options.micro_batch, int) and options.batch_tokens is not None
        # A forward pass alone costs about a third of a training step's share of tokens.
        length = options.row_tokens(config.context)
        seconds_per_batch = seconds_per_step / 3 * options.micro_batch * length / options.batch_tokens
        affordable = max(4, int(0.1 * eval_every * seconds_per_step / seconds_per_batch))
        needed = -(-(shards.valid.n_tokens - 1) // (length * options.micro_batch))
        if affordable < needed:
            resolved = resolved.derive("limit_batches", affordable, "a tenth of the time between evaluations")
    check_samples(options, config, tokenizer)
    if not options.sample and options.sample_tokens and shards.valid is not None:
        words = first_words(shards, tokenizer)
        if options.objective == "masked":
            prompt, rule = hide_a_word(words), "the first words of the validation text, one of them hidden"
        else:
            prompt, rule = " ".join(words[:4]), "the first words of the validation text"
        resolved = resolved.derive("sample", [prompt], rule)
    return resolved


def check_samples(options: PretrainOptions, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UserError for prompts that are too long, or have no mask where masked words are learned."""
    problems = []
    for prompt in options.sample:
        shown = repr(beginning(prompt, 40))
        masked = options.objective == "masked"
        ids = tokenizer.encode(prompt, special=masked)
        if masked and tokenizer.mask_id not in ids:
            problems.append(Problem(f"--sample {shown} has no [MASK] to be filled", mend="put [MASK] for a word"))
        around = 2 if masked else 1  # [CLS] and [SEP], or a word to be written
        if len(ids) + around > config.context:
            what = f"--sample {shown} leaves no room in a context of {config.context} tokens"
            problems.append(Problem(what, mend="a shorter prompt"))
    if problems:
        raise UserError(*problems)


def first_words(shards: TrainingShards, tokenizer: Tokenizer) -> list[str]:
    """The beginning of the validation text, a few words."""
    assert shards.valid is not None
    ids = shards.valid.read(0, min(12, shards.valid.n_tokens)).tolist()
    words = tokenizer.decode(ids, skip_special=True).split()
    return words[:-1] or ["The"]  # the last word may be cut off


def hide_a_word(words: list[str]) -> str:
    """The words with [MASK] in place of the middle one."""
    middle = len(words) // 2
    return " ".join([*words[:middle], "[MASK]", *words[middle + 1 :]])
