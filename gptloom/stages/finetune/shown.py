"""The examples of any step of a fine-tuning, as the model was or will be trained on them."""

from __future__ import annotations

from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved, read_config
from gptloom.observe.events import read_events
from gptloom.stages.finetune.data import read_task_data
from gptloom.stages.finetune.features import uses_features
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.on_disk import CONFIG
from gptloom.stages.show_examples import shown_example
from gptloom.stages.shown_tokens import ShownExample
from gptloom.train.rollback import excluded_windows
from gptloom.train.run import EVENTS


def examples_of_step(folder: Path, step: int, n: int) -> list[ShownExample]:
    """The first ``n`` examples of ``step`` (the first is 1) of the run in ``folder``; without what a guard left out.

    The rows are read again, and the base for its tokenizer and context.

    Raises:
        UserError: rows that have changed since the run began, a run on features, which has no steps.
    """
    stored = Resolved.from_dict(FinetuneOptions, read_config(folder / CONFIG), str(folder / CONFIG))
    if uses_features(stored.options):
        what = "it was trained on features, all at once: there is no batch of a step"
        raise UserError(Problem(what, str(folder), "gptloom data show FILE --stage finetune"))
    events = list(read_events(folder / EVENTS))
    data = read_task_data(stored.options)
    before = next((event["repeat"]["hashes"]["data"] for event in events if event["type"] == "start"), data.hash)
    if data.hash != before:
        raise UserError(Problem("the rows have changed since the run began", str(folder), "put the old ones back"))
    plan = plan_run(stored, data)
    by_place = {example.where: example for example in data.train}
    places = plan.batches.describe(step - 1, excluded_windows(events))[:n]
    return [
        shown_example(by_place[encoded.where], encoded, plan.body.tokenizer, plan.body.task.labels)
        for encoded in (plan.batches.encoded[place.index] for place in places)
    ]
