"""A tuning's plan made once more, to look at what any of its steps was or will be trained on."""

from __future__ import annotations

from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.resolve import Resolved, read_config
from gptloom.config.run_folder import CONFIG, EVENTS
from gptloom.observe.events import read_events
from gptloom.stages.tuning.plan import Plan
from gptloom.stages.tuning.resume import Tuning, check_unchanged
from gptloom.train.rollback import excluded_windows


def plan_again(tuning: Tuning, folder: Path) -> tuple[Plan, list[int]]:
    """The plan of the run in ``folder``, and the windows of its data order that a guard left out.

    The rows are read again, and the base for its tokenizer and context.

    Raises:
        UserError: rows, or anything else, that have changed since the run began; a run on features, which has no steps.
    """
    stored = Resolved.from_dict(tuning.options, read_config(folder / CONFIG), str(folder / CONFIG))
    if tuning.in_one_step(stored.options):
        what = "it was trained on features, all at once: there is no batch of a step"
        raise UserError(Problem(what, str(folder), f"gptloom data show FILE --stage {tuning.command}"))
    events = read_events(folder / EVENTS)
    data = tuning.read(stored.options)
    then: dict[str, str] = next((event["repeat"]["hashes"] for event in events if event["type"] == "start"), {})
    if data.hash != then.get("data", data.hash):
        raise UserError(Problem("the rows have changed since the run began", str(folder), "put the old ones back"))
    plan = tuning.plan(stored, data)
    check_unchanged(plan, then, folder, "put the old ones back")
    return plan, excluded_windows(events)
