"""Going on with a fine-tuning where it stopped; with a larger budget, beyond where it was to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.options import DurabilityOptions, ParallelOptions
from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import Resolved, read_config
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.terminal import say
from gptloom.stages.claim import Claim
from gptloom.stages.finetune.data import read_task_data
from gptloom.stages.finetune.features import fit_features, uses_features
from gptloom.stages.finetune.one import finetune_one
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.stages.finetune.training import train_one
from gptloom.stages.task import CONFIG
from gptloom.train.checkpoint import newest_sound
from gptloom.train.run import Hook, read_state, take_lock

KEPT = ("save_on_signal", "wait_for_disk")  # of the durability options


def resume_finetuning(
    resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook] = (), confirm: Callable[[str], bool] | None = None
) -> FinetunedRun:
    """Continues the run of ``resolved.options.run``, on the rows and the base that it began with.

    ``confirm`` is asked before an older checkpoint is taken because the newest is damaged (default: what ``--yes`` says).

    Raises:
        UserError: nothing is left to do; rows or base have changed; no checkpoint is sound; options for several processes.
    """
    folder = Path(resolved.options.run)
    _check_options(resolved)
    stored = Resolved.from_dict(FinetuneOptions, read_config(folder / CONFIG), str(folder / CONFIG))
    stored = _as_asked(stored, resolved)
    before = read_state(folder)
    features = uses_features(stored.options)
    begun = bool(finished_checkpoints(folder)) and not features
    budget = _budget(resolved.options, before.steps, begun, folder)
    if before.state == "finished" and budget is None:
        mend = f"gptloom resume {folder} --max-steps {2 * before.step}"
        if features:
            mend = "gptloom finetune with another --out, or --overwrite"
        raise UserError(Problem(f"the run is finished: {before.reason}, {before.step} steps", str(folder), mend))
    data = read_task_data(stored.options)
    if features:
        with Claim(folder, overwrite=False) as claim:
            take_lock(claim.lock)
            fit_features(plan_run(stored, data), claim, callbacks)
        return FinetunedRun(folder)
    if not begun:
        say("the run was broken off before its first checkpoint: it starts again")
        options = stored.options.model_copy(update={"overwrite": True})
        return finetune_one(replace(stored, options=options), data, folder, callbacks)
    with Claim(folder, overwrite=False) as claim:
        take_lock(claim.lock)
        step, checkpoint, document, harm = newest_sound(folder)
        asked = confirm or (lambda question: resolved.options.yes)
        if harm and not asked(f"Newer checkpoints are damaged. Go on from step {step}?"):
            raise UserError(*harm, Problem(f"the newest sound checkpoint is that of step {step}", str(folder), "--yes"))
        if budget is not None:
            say(f"a new warm-up and decay over the steps {step} to {budget}")
            options = stored.options.model_copy(update={"max_steps": budget, "max_epochs": None, "max_minutes": None})
            stored = replace(stored, options=options)
            document["run"] |= {"begin": step, "steps": budget}
        plan = plan_run(stored, data)
        now = {"data": data.hash, "base": plan.body.base_hash}
        names = {"data": "the rows have", "base": f"the weights of {stored.options.base} have"}
        changed = [f"{names[name]} changed since the run began" for name in now if document["facts"][name] != now[name]]
        if changed:
            mend = "put the old ones back, or fine-tune anew: --overwrite, or another --out"
            raise UserError(*(Problem(what, str(folder), mend) for what in changed))
        train_one(plan, claim, callbacks, (checkpoint, document))
    return FinetunedRun(folder)


def is_finetuning(folder: Path) -> bool:
    """Whether a run is a fine-tuning for a task, by its configuration."""
    path = folder / CONFIG
    return path.is_file() and read_config(path).get("command") == "finetune"


def _check_options(resolved: Resolved[ResumeOptions]) -> None:
    names = [*ParallelOptions.model_fields, *(name for name in DurabilityOptions.model_fields if name not in KEPT)]
    if given := [f"--{name.replace('_', '-')}" for name in names if resolved.given(name)]:
        raise UserError(Problem(f"{', '.join(given)}: a fine-tuning is the work of one process", mend="leave it out"))


def _as_asked(stored: Resolved[FinetuneOptions], now: Resolved[ResumeOptions]) -> Resolved[FinetuneOptions]:
    given = {name: getattr(now.options, name) for name in (*KEPT, "threads") if now.given(name)}
    return replace(stored, options=stored.options.model_copy(update={**given, "quiet": now.options.quiet}))


def _budget(given: ResumeOptions, steps: int, begun: bool, folder: Path) -> int | None:
    """The steps in all that are asked for now, if other than planned; they count from the start of the run."""
    others = (given.max_epochs, given.max_minutes, given.max_train_tokens)
    if any(budget is not None for budget in others):
        raise UserError(
            Problem("a fine-tuning is extended by --max-steps", mend=f"gptloom resume {folder} --max-steps N")
        )
    if given.max_steps is None or given.max_steps == steps:
        return None
    if not begun:
        raise UserError(Problem("--max-steps: this run has no checkpoint to go on from", str(folder), "leave it out"))
    if given.max_steps < steps:
        what = f"--max-steps {given.max_steps}: the run was planned for {steps}"
        raise UserError(Problem(what, str(folder), f"--max-steps {2 * steps}"))
    return given.max_steps
