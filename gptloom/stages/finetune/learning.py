"""How a fine-tuning for a task learns: weights of losses and of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved
from gptloom.data.task_inputs import IGNORED
from gptloom.stages.finetune.body import TaskBody
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.learning import choose_epochs, choose_rate

HEAD_LR = 1e-3
LM_WEIGHT = 0.5  # GPT-1, section 4.1
EPOCHS = 3.0
HEAD_EPOCHS = 30.0


def choose_learning(resolved: Resolved[FinetuneOptions], body: TaskBody) -> Resolved[FinetuneOptions]:
    """Learning rate, the weight of the next-word loss and a budget, where they were not given."""
    options = resolved.options
    head_only = options.method == "feature" and not options.train
    if options.lr is None and head_only:
        resolved = resolved.derive("lr", HEAD_LR, "the head alone")
    resolved = choose_rate(resolved, parameters_of(body.model))
    if options.lm_weight is None:
        full = options.method == "full" and not options.train and body.next_words and not options.fresh
        why = "GPT-1's, for full fine-tuning of a decoder" if full else "none beside the task"
        resolved = resolved.derive("lm_weight", LM_WEIGHT if full else 0.0, why)
    elif options.lm_weight and not body.next_words:
        what = f"--lm-weight {options.lm_weight:g}: the body sees the whole text, and has no next word to predict"
        raise UserError(Problem(what, mend="leave it out"))
    return choose_epochs(resolved, HEAD_EPOCHS if head_only else EPOCHS)


def class_weights(given: Sequence[str], data: TaskData, task: str) -> Tensor | None:
    """[C]: ``balanced`` is n / (C n_c), as scikit-learn's; ``label=weight`` names some, others count 1.

    Raises:
        UserError: a task without classes, an unknown label, or what is no number above 0.
    """
    if not given:
        return None
    if not data.labels or task == "choice":
        raise UserError(Problem(f"--class-weights: {task} has no classes here", mend="leave it out"))
    if list(given) == ["balanced"]:
        labels = [label for example in data.train for label in _each(example.label)]
        counts = Counter(label for label in labels if label != IGNORED)
        total, classes = sum(counts.values()), len(data.labels)
        return torch.tensor([total / (classes * max(1, counts[index])) for index in range(classes)])
    if "balanced" in given:
        raise UserError(
            Problem("balanced stands alone: it weighs every class", "--class-weights", "either it or LABEL=WEIGHT")
        )
    weights, problems = dict.fromkeys(data.labels, 1.0), []
    for entry in (part for item in given for part in item.split(",")):
        label, equals, text = entry.rpartition("=")
        try:
            weight = float(text) if equals else 0.0
        except ValueError:
            weight = 0.0
        if label not in weights:
            mend = "balanced, or LABEL=WEIGHT" if not equals else nearest(label, data.labels)
            problems.append(Problem(f"{entry!r}: there is no such label", "--class-weights", mend))
        elif not weight > 0:
            problems.append(Problem(f"{entry!r}: a weight is a number above 0", "--class-weights"))
        weights[label] = weight
    if problems:
        raise UserError(*problems)
    return torch.tensor([weights[label] for label in data.labels])


def _each(label: object) -> Sequence[object]:
    return label if isinstance(label, tuple) else (label,)
