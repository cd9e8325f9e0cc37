"""Options of a fine-tuning that exclude each other, or that would do nothing: all of them at once."""

from __future__ import annotations

from collections.abc import Iterator

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved, idle
from gptloom.stages.finetune.columns import idle_columns, idle_inputs
from gptloom.stages.finetune.features import uses_features
from gptloom.stages.overwriting import about_overwriting
from gptloom.stages.tuning.conflicts import about_part

STEPS = (  # what only a training by steps heeds
    *("micro_batch", "lr", "layer_decay", "weight_decay", "beta1", "beta2", "epsilon", "clip", "warmup", "lm_weight"),
    *("batch_size", "patience", "max_steps", "max_epochs", "max_minutes", "max_train_tokens"),
    *("log_every", "eval_every", "save_every", "limit_batches", "keep", "log", "compile", "dropout"),
)


def check_options(resolved: Resolved[FinetuneOptions]) -> None:
    """UserError with every conflict."""
    problems = [*_about_method(resolved), *_about_task(resolved.options), *_about_many(resolved)]
    problems += about_overwriting(resolved.options)
    if problems:
        raise UserError(*problems)


def _about_method(resolved: Resolved[FinetuneOptions]) -> Iterator[Problem]:
    options = resolved.options
    yield from about_part(resolved)
    method = "train" if options.train else options.method
    if method not in ("feature", "all"):
        yield from idle(resolved, ("classifier",), "it is for --method feature")
    elif options.task == "span":
        yield from idle(resolved, ("classifier",), "the places of an answer have no features: a span's head is trained")
    if uses_features(options):
        yield from idle(resolved, STEPS, "nothing is trained by steps with --method feature")
        if options.classifier != "linear" and options.label_smoothing:
            yield Problem("--label-smoothing: logistic regression has none", mend="--classifier linear")
    if options.classifier == "logistic" and options.task in ("choice", "regress", "span"):
        yield Problem(f"--classifier logistic: {options.task} has no classes to regress on", mend="--classifier linear")
    if options.fresh and options.untrained:
        yield Problem("--fresh and --untrained: a preset has random weights already", mend="--untrained")
    if options.fresh and options.adapter is not None:
        yield Problem("--fresh and --adapter: an adapter belongs to trained weights", mend="one of them")
    elif options.fresh and method == "lora":
        what = "--method lora --fresh: adapters stand on the weights of BASE, which random ones are not"
        yield Problem(what, mend="--method full --fresh")


def _about_task(options: FinetuneOptions) -> Iterator[Problem]:
    yield from idle_columns(options.task, options)
    yield from idle_inputs(options.task, options)
    if options.label_smoothing and options.task in ("regress", "span"):
        what = "a number" if options.task == "regress" else "a place in a text"
        yield Problem(f"--label-smoothing: {what} has no classes", mend="leave it out")
    if options.preprocess and options.task in ("tokens", "span"):
        yield Problem(f"--preprocess: {options.task} needs each word where it stands", mend="leave it out")
    if options.pooling is not None and options.task in ("tokens", "span"):
        yield Problem(f"--pooling: {options.task} reads every token", mend="leave it out")


def _about_many(resolved: Resolved[FinetuneOptions]) -> Iterator[Problem]:
    options = resolved.options
    if options.method == "all" and options.fresh:
        yield Problem("--method all --fresh: frozen random features are of no use", mend="--method full --fresh")
