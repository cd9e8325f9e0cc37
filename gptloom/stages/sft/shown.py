"""The conversations of any step of an instruction tuning, as the model was or will be trained on them."""

from __future__ import annotations

from pathlib import Path

from gptloom.stages.sft.plan import SftPlan
from gptloom.stages.sft.resume import SFT
from gptloom.stages.show_conversations import shown_conversation
from gptloom.stages.shown_tokens import ShownExample
from gptloom.stages.tuning.shown import plan_again


def examples_of_step(folder: Path, step: int, n: int) -> list[ShownExample]:
    """The first ``n`` conversations of ``step`` (the first is 1) of the run in ``folder``, without what a guard left out and
    text that is replayed; raises as ``plan_again``."""
    plan, excluded = plan_again(SFT, folder)
    assert isinstance(plan, SftPlan)
    places = plan.batches.describe(step - 1, excluded)[:n]
    return [shown_conversation(plan.batches.example(place), plan.body.tokenizer) for place in places]
