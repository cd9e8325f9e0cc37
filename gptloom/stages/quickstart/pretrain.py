"""The quickstart's first stage: a base model, watched while it learns and then held against yardsticks."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptloom.config.files import write_text
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.recipes import load_recipe
from gptloom.config.resolve import resolve
from gptloom.config.run_folder import DATA, TOKENIZER
from gptloom.data.built import load_built
from gptloom.data.python_corpus import DOCUMENT_SEPARATOR
from gptloom.data.shards import TokenShards
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.open import load
from gptloom.model.counting import count_parameters
from gptloom.observe.numbers import human_count
from gptloom.observe.terminal import terminal
from gptloom.stages.pretrain import pretrain
from gptloom.stages.quickstart import screen
from gptloom.stages.quickstart.examples import ask
from gptloom.stages.quickstart.moments import Watch
from gptloom.stages.quickstart.runs import finish_run
from gptloom.stages.quickstart.samples import compare_copying, write_samples
from gptloom.stages.quickstart.stage import Context, StageResult
from gptloom.stages.trained import TrainedRun
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import default_vocab_size

BASE = "base"
SAMPLES, RULE = "samples.txt", "\n" + "─" * 40 + "\n"
RECIPE = "quickstart"
SAVE_EVERY = 200  # steps: what a broken-off training loses at most
ONLY_AT_THE_END = 10**9  # steps between the run's own evaluations: the moments take their place
SAMPLED_TOKENS, QUESTIONS = 2000, 25

# With --fast: a model that learns next to nothing, in seconds.
FAST = {"n_layer": 2, "d_model": 64, "n_head": 1, "context": 128, "batch_tokens": 512, "max_steps": 24}
FAST_TOKENS, FAST_QUESTIONS = 200, 2


def pretrain_base(context: Context) -> StageResult | None:
    """Trains ``base``, or goes on with it, and measures what it can do; None when it was stopped on the way."""
    run = _train(context, context.out / BASE)
    if run.state.state != "finished":
        return None
    return _measure(context, run)


def _train(context: Context, folder: Path) -> TrainedRun:
    """The run in ``folder``: finished, gone on with, or begun (anew, where no checkpoint was left)."""
    watch = Watch(context.corpus.prompts[0], context.seed, context.yardsticks, lambda: _open_text(folder))

    def begin() -> None:
        recipe = load_recipe(RECIPE)
        given = _options(context, folder, int(recipe.options["vocab_size"]))
        options = resolve(PretrainOptions, given, recipe.options, recipe.name, "quickstart", recipe.places)
        pretrain(options, [watch])

    finish_run(folder, begin, [watch])
    return TrainedRun(folder)


def _options(context: Context, folder: Path, vocab_size: int) -> dict[str, Any]:
    """What the recipe leaves open: text, length, and how the run keeps itself."""
    n_bytes = context.corpus.train.stat().st_size
    return {
        "recipe": RECIPE,
        "data": [str(context.corpus.train)],
        "valid": [str(context.corpus.valid)],
        "document_separator": DOCUMENT_SEPARATOR,
        "vocab_size": min(vocab_size, default_vocab_size(n_bytes)),
        "out": str(folder),
        "overwrite": True,
        **(FAST if context.fast else {"max_minutes": context.minutes}),
        "seed": context.seed,
        "log": ["none"],
        "sample_tokens": 0,
        "eval_every": ONLY_AT_THE_END,
        "save_every": SAVE_EVERY,
        "keep": 1,
        "quiet": True,  # Watch shows it
        **context.machine,
    }


def _open_text(folder: Path) -> tuple[Tokenizer, TokenShards]:
    valid = load_built(folder / DATA).open().valid
    assert valid is not None
    return load_tokenizer(folder / TOKENIZER), valid


def _measure(context: Context, run: TrainedRun) -> StageResult:
    """Holds the finished model against the yardsticks, lets it write and answer, and says what came out."""
    state, built = run.state, load_built(run.path / DATA)
    model = load(str(run.path), device=context.machine.get("device", "auto"))
    config = model.model.config
    parameters = count_parameters(config).total
    untrained = math.log2(config.vocab_size) * built.n_valid_tokens / built.n_valid_bytes
    bits = state.bits_per_byte
    assert bits is not None, "a run that finished without a figure would have been stopped by its guard"
    screen.say_verdict(bits, context.yardsticks, context.corpus)
    figures = {
        "parameters": parameters,
        "steps": state.step,
        "tokens": state.tokens,
        "passes": state.tokens / built.n_train_tokens,
        "bits_per_byte": bits,
        "untrained_bits_per_byte": untrained,
        "beaten": [yardstick.name for yardstick in context.yardsticks if bits < yardstick.bits_per_byte],
        "moments": _moments(run),
        **_let_write(context, model),
        "examples": _let_answer(context, model),
    }
    better = f"bits per byte {untrained:.2f} → {bits:.2f}"
    return StageResult(BASE, f"{BASE}, {human_count(parameters)}", state.seconds, better, figures)


def _let_write(context: Context, model: LanguageModel) -> dict[str, Any]:
    """Samples, kept in a file of their own, and how much of them is copied."""
    terminal.show_live("writing samples …")
    corpus, kept = context.corpus, context.out / SAMPLES
    tokens = FAST_TOKENS if context.fast else SAMPLED_TOKENS
    samples = write_samples(model, corpus.prompts[::-1], tokens, context.seed)
    write_text(kept, RULE.join(sample.prompt + sample.text for sample in samples) + "\n")
    training, validation = (path.read_text(encoding="utf-8") for path in (corpus.train, corpus.valid))
    copied, usual = compare_copying(samples, training, validation)
    screen.say_samples(samples, copied, usual, kept, invented=bool(corpus.examples))
    return {
        "samples": [asdict(sample) for sample in samples],
        "copying": asdict(copied),
        "copying_of_held_out_text": asdict(usual),
    }


def _let_answer(context: Context, model: LanguageModel) -> list[dict[str, Any]]:
    """Scores by kind of question; none for a text that comes without questions."""
    if not context.corpus.examples:
        return []
    terminal.show_live("answering questions …")
    scores = ask(model, context.corpus.examples, FAST_QUESTIONS if context.fast else QUESTIONS)
    screen.say_scores(scores)
    return [asdict(score) for score in scores]


def _moments(run: TrainedRun) -> list[dict[str, Any]]:
    """What was watched, from the run's events: of a resumed training all of it."""
    bits = {event["step"]: event["bits_per_byte"] for event in run.events if event["type"] == "evaluate"}
    return [
        {
            "step": event["step"],
            "bits_per_byte": bits.get(event["step"]),
            "prompt": event["prompt"],
            "text": event["text"],
        }
        for event in run.events
        if event["type"] == "sample"
    ]
