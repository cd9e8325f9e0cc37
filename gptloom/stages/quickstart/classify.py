"""The quickstart's second stage: which module family does a docstring come from? The base, adopted in two ways.

Frozen, with a classifier on its features; and with all of its weights trained on. Beside them the same shape from random
weights, trained for as many steps. All are measured on docstrings of modules that none of them was fine-tuned on.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import resolve
from gptloom.interop.classifiers import open_classifier
from gptloom.observe.numbers import human_count
from gptloom.observe.terminal import say
from gptloom.stages.finetune.stage import finetune
from gptloom.stages.quickstart import screen
from gptloom.stages.quickstart.accuracies import COMMONEST, measure, read_rows, without_network
from gptloom.stages.quickstart.corpus import Docstrings
from gptloom.stages.quickstart.pretrain import BASE
from gptloom.stages.quickstart.runs import finish_run
from gptloom.stages.quickstart.stage import Context, StageResult
from gptloom.stages.tuning.body import parameters_of
from gptloom.train.run import RunState

FEATURE, FULL, RANDOM = "classify-feature", "classify-full", "classify-random"
NAMES = {FEATURE: "feature-based", FULL: "full", RANDOM: "full, from random weights"}
MEANINGS = {
    FEATURE: "the base stays as it is; a classifier learns from what it makes of each docstring",
    FULL: "all of its weights learn on, below a new head",
    RANDOM: "the same shape and as many steps, without pretraining",
}
LONGEST = 64  # tokens of a docstring: its beginning says what it is about
EPOCHS = 3.0
FULL_SHARE = 0.4  # of the stage's minutes; random weights take as long, features take seconds
FAST_STEPS = 6  # with --fast


def classify_docstrings(context: Context) -> StageResult | None:
    """Makes the three runs, or goes on with them, and measures them; None when one was stopped on the way."""
    docstrings = context.corpus.docstrings
    assert docstrings is not None, "the pipeline leaves this stage out where there are none"
    states: dict[str, RunState] = {}
    for run, name in NAMES.items():
        say(f"{name}: {MEANINGS[run]}")
        steps = states[FULL].step if run == RANDOM else None
        asked = resolve(FinetuneOptions, _options(context, run, docstrings, steps), given_source="quickstart")
        states[run] = finish_run(context.out / run, partial(finetune, asked), quiet=True)  # three would say the same
        if states[run].state != "finished":
            return None
    return _measure(context, docstrings, states)


# ---- the runs --------------------------------------------------------------------------------------------------------


def _options(context: Context, run: str, docstrings: Docstrings, steps: int | None) -> dict[str, Any]:
    """What ``gptloom finetune`` is asked for. ``steps``: for the random weights, as many as the base had."""
    given = {
        "base": str(context.out / BASE),
        "task": "classify",
        "data": [str(docstrings.train)],
        "text": "text",
        "label": "family",
        "max_length": LONGEST,
        "method": "feature" if run == FEATURE else "full",
        "out": str(context.out / run),
        "overwrite": True,
        "seed": context.seed,
        "quiet": True,
        **context.machine,
    }
    if run == FEATURE:
        return {name: value for name, value in given.items() if name != "compile"}  # one pass, nothing to compile
    length: dict[str, Any] = {"max_epochs": EPOCHS, "max_minutes": FULL_SHARE * context.minutes}
    if context.fast:
        length = {"max_steps": FAST_STEPS}
    elif steps is not None:
        length = {"max_steps": steps}
    return {**given, **length, "fresh": run == RANDOM or None, "lm_weight": 0.0, "log": ["none"]}


# ---- what came of them -----------------------------------------------------------------------------------------------


def _measure(context: Context, docstrings: Docstrings, states: dict[str, RunState]) -> StageResult:
    """Lets every model tell the families of the held-out docstrings, and says how well it does."""
    train, held_out = read_rows(docstrings.train), read_rows(docstrings.held_out)
    found = without_network(train, held_out, docstrings.unread)
    parameters = 0
    for run, state in states.items():
        classifier = open_classifier(context.out / run, device=context.machine.get("device", "auto"))
        answers = [prediction.answer for prediction in classifier.classify([row.text for row in held_out])]
        found.append(measure(NAMES[run], answers, held_out, docstrings.unread, run, state.seconds))
        parameters = parameters_of(classifier.model)
    unread = sum(row.module in docstrings.unread for row in held_out)
    screen.say_accuracies(found, train, held_out, unread)
    share = {accuracy.name: accuracy.share for accuracy in found}
    told, random = share[NAMES[FULL]], share[NAMES[RANDOM]]
    better = f"families told right {share[COMMONEST]:.0%} → {told:.0%} (random weights {random:.0%})"
    figures = {
        "train_docstrings": len(train),
        "heldout_docstrings": len(held_out),
        "unread_docstrings": unread,
        "families": sorted({row.family for row in train}),
        "heldout_modules": sorted({row.module for row in held_out}),
        "accuracies": [asdict(accuracy) for accuracy in found],
    }
    seconds = sum(state.seconds for state in states.values())
    return StageResult(FULL, f"classifier, {human_count(parameters)}", seconds, better, figures)
