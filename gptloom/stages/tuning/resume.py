"""Going on with a tuning where it stopped; with a larger budget, beyond where it was to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import DurabilityOptions, Options, ParallelOptions
from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import DERIVED, Resolved, idle, read_config, write_config
from gptloom.config.run_folder import CONFIG
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.terminal import say
from gptloom.stages.claim import Claim
from gptloom.stages.tuning.plan import Plan
from gptloom.stages.tuning.training import train
from gptloom.train.checkpoint import newest_sound
from gptloom.train.run import Hook, read_state, take_lock

KEPT = ("save_on_signal", "wait_for_disk")  # of the durability options


@dataclass(frozen=True)
class Tuning:
    """What a stage does when one of its runs goes on."""

    command: str
    options: type[Options]
    read: Callable[[Any], Any]  # options -> the data, as they are now
    plan: Callable[[Resolved[Any], Any], Plan]
    start: Callable[[Resolved[Any], Any, Path, Sequence[Hook]], object]  # a run that has no checkpoint yet
    in_one_step: Callable[[Any], bool] = lambda options: False  # no checkpoints: ``start_again`` finds what is done
    start_again: Callable[[Any, Claim, Sequence[Hook]], None] | None = None


def resume_tuning(
    tuning: Tuning,
    resolved: Resolved[ResumeOptions],
    callbacks: Sequence[Hook] = (),
    confirm: Callable[[str], bool] | None = None,
) -> None:
    """Continues the run of ``resolved.options.run``, with the rows, the base and all else that it began with.

    ``confirm`` is asked before an older checkpoint is taken because the newest is damaged (default: what ``--yes`` says).

    Raises:
        UserError: nothing is left to do; what it began with has changed; no checkpoint is sound; options for several processes.
    """
    folder = Path(resolved.options.run)
    _check_options(resolved)
    stored: Resolved[Any] = Resolved.from_dict(tuning.options, read_config(folder / CONFIG), str(folder / CONFIG))
    stored = _as_asked(stored, resolved)
    before = read_state(folder)
    at_once = tuning.in_one_step(stored.options)
    begun = bool(finished_checkpoints(folder)) and not at_once
    budget = _budget(resolved.options, before.steps, begun, folder)
    if before.state == "finished" and budget is None:
        mend = f"gptloom resume {folder} --max-steps {2 * before.step}"
        if at_once:
            mend = f"gptloom {tuning.command} with another --out, or --overwrite"
        raise UserError(Problem(f"the run is finished at step {before.step}: {before.reason}", str(folder), mend))
    data = tuning.read(stored.options)
    if at_once:
        assert tuning.start_again is not None
        with Claim(folder, overwrite=False) as claim:
            take_lock(claim.lock)
            tuning.start_again(tuning.plan(stored, data), claim, callbacks)
        return
    if not begun:
        say("the run was broken off before its first checkpoint: it starts again")
        options = stored.options.model_copy(update={"overwrite": True})
        tuning.start(replace(stored, options=options), data, folder, callbacks)
        return
    with Claim(folder, overwrite=False) as claim:
        take_lock(claim.lock)
        step, checkpoint, document, harm = newest_sound(folder)
        asked = confirm or (lambda question: resolved.options.yes)
        if harm and not asked(f"Newer checkpoints are damaged. Go on from step {step}?"):
            raise UserError(*harm, Problem(f"the newest sound checkpoint is that of step {step}", str(folder), "--yes"))
        if budget is not None:
            stored = _extended(stored, budget)
        if document["run"]["steps"] != stored.options.max_steps:  # a checkpoint from before it was extended
            say(f"a new warm-up and decay over the steps {step} to {stored.options.max_steps}")
            document["run"] |= {"begin": step, "steps": stored.options.max_steps}
        plan = tuning.plan(stored, data)
        mend = f"put the old ones back, or begin anew: gptloom {tuning.command} with --overwrite or another --out"
        check_unchanged(plan, document["facts"], folder, mend)
        if budget is not None:
            write_config(folder / CONFIG, stored, tuning.command)  # what the run is resumed by from now on
        train(plan, claim, callbacks, (checkpoint, document))


def check_unchanged(plan: Plan, then: Mapping[str, Any], folder: Path, mend: str) -> None:
    """UserError with everything that has changed since ``then``, of what was noted then."""
    names = _names(plan.options)
    changed = [name for name, now in plan.made_of.items() if then.get(name, now) != now]
    if changed:
        raise UserError(*(Problem(f"{names[name]} changed since the run began", str(folder), mend) for name in changed))


def _names(options: Any) -> dict[str, str]:
    """What people call the parts of ``Plan.made_of``."""
    given = options.model_dump()
    template, replayed = given.get("template"), given.get("replay_data") or [f"what {options.base} was pretrained on"]
    return {
        "data": "the rows have",
        "base": f"the weights of {options.base} have",
        "adapter": f"the adapter {options.adapter} has",
        "template": f"template {template} has" if template else f"the template of {options.base} has",
        "replay": f"the text of {', '.join(replayed)} has",
    }


def _check_options(resolved: Resolved[ResumeOptions]) -> None:
    names = [*ParallelOptions.model_fields, *(name for name in DurabilityOptions.model_fields if name not in KEPT)]
    if problems := idle(resolved, names, "a tuning is the work of one process"):
        raise UserError(*problems)


def _as_asked(stored: Resolved[Any], now: Resolved[ResumeOptions]) -> Resolved[Any]:
    given = {name: getattr(now.options, name) for name in (*KEPT, "threads") if now.given(name)}
    return replace(stored, options=stored.options.model_copy(update={**given, "quiet": now.options.quiet}))


def _extended(stored: Resolved[Any], steps: int) -> Resolved[Any]:
    """The options with the new length instead of the old one, however that was given."""
    budgets = {"max_steps": steps, "max_epochs": None, "max_minutes": None}
    sources, rules = (
        {name: value for name, value in kept.items() if name not in budgets} for kept in (stored.sources, stored.rules)
    )
    options = stored.options.model_copy(update=budgets)
    return Resolved(
        options, {**sources, "max_steps": DERIVED}, {**rules, "max_steps": "extended by gptloom resume --max-steps"}
    )


def _budget(given: ResumeOptions, steps: int, begun: bool, folder: Path) -> int | None:
    """The steps in all that are asked for now, if other than planned; they count from the start of the run."""
    others = (given.max_epochs, given.max_minutes, given.max_train_tokens)
    if any(budget is not None for budget in others):
        raise UserError(Problem("this run is extended by --max-steps", mend=f"gptloom resume {folder} --max-steps N"))
    if given.max_steps is None or given.max_steps == steps:
        return None
    if not begun:
        raise UserError(Problem("--max-steps: this run has no checkpoint to go on from", str(folder), "leave it out"))
    if given.max_steps < steps:
        what = f"--max-steps {given.max_steps}: the run was planned for {steps}"
        raise UserError(Problem(what, str(folder), f"--max-steps {2 * steps}"))
    return given.max_steps
