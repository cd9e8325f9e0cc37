"""The examples of any step of a fine-tuning, as the model was or will be trained on them."""

from __future__ import annotations

from pathlib import Path

from gptloom.stages.finetune.plan import TaskPlan
from gptloom.stages.finetune.resume import FINETUNING
from gptloom.stages.show_examples import shown_example
from gptloom.stages.shown_tokens import ShownExample
from gptloom.stages.tuning.shown import plan_again


def examples_of_step(folder: Path, step: int, n: int) -> list[ShownExample]:
    """The first ``n`` examples of ``step`` (the first is 1) of the run in ``folder``, without what a guard left out; raises
    as ``plan_again``."""
    plan, excluded = plan_again(FINETUNING, folder)
    assert isinstance(plan, TaskPlan)
    by_place = {example.where: example for example in plan.data.train}
    return [
        shown_example(by_place[encoded.where], encoded, plan.body.tokenizer, plan.body.task.labels)
        for encoded in (plan.batches.encoded[place.index] for place in plan.batches.describe(step - 1, excluded)[:n])
    ]
