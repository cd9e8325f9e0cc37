"""Instruction tuning of a pretrained model. Read it from ``sft`` on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptloom.config.errors import UserError
from gptloom.config.resolve import Resolved, idle, write_config
from gptloom.config.run_folder import CONFIG
from gptloom.config.sft import SftOptions
from gptloom.stages.claim import Claim
from gptloom.stages.on_disk import default_folder
from gptloom.stages.overwriting import about_overwriting
from gptloom.stages.sft.data import SftData, read_sft_data
from gptloom.stages.sft.plan import plan_run
from gptloom.stages.sft.result import SftRun
from gptloom.stages.tuning.conflicts import about_part
from gptloom.stages.tuning.part import part_sentence
from gptloom.stages.tuning.result import TuningDryRun
from gptloom.stages.tuning.training import foresee, train
from gptloom.train.run import Hook, check_free


def sft(resolved: Resolved[SftOptions], callbacks: Sequence[Hook] = ()) -> SftRun | TuningDryRun:
    """Tunes BASE on conversations.

    Raises UserError, before anything is written, when the options, the rows or the model do not allow it. ``callbacks``
    are hooks, called after the run's own.
    """
    check_options(resolved)
    options = resolved.options
    folder = Path(options.out or default_folder("sft", options.data[0], "rows"))
    if not options.dry_run:
        check_free(folder, overwrite=options.overwrite)
    data = read_sft_data(options)
    if options.dry_run:
        return _foresee(resolved, data, folder)
    start(resolved, data, folder, callbacks)
    return SftRun(folder)


def start(resolved: Resolved[SftOptions], data: SftData, folder: Path, callbacks: Sequence[Hook] = ()) -> None:
    """Trains from the beginning into ``folder``."""
    plan = plan_run(resolved, data)
    with Claim(folder, resolved.options.overwrite) as claim:
        claim.take()
        write_config(folder / CONFIG, plan.resolved, plan.command)
        train(plan, claim, callbacks)


def check_options(resolved: Resolved[SftOptions]) -> None:
    """UserError with every option that contradicts another, or would do nothing."""
    problems = [*about_part(resolved), *about_overwriting(resolved.options)]
    if len(resolved.options.data) == 1:
        problems += idle(resolved, ("mix_temperature",), "there is one file, and nothing to mix")
    if problems:
        raise UserError(*problems)


def _foresee(resolved: Resolved[SftOptions], data: SftData, folder: Path) -> TuningDryRun:
    """Everything up to the first step, with nothing written."""
    plan = foresee(plan_run(resolved, data), folder)
    sentence = part_sentence(plan.body)
    examples = {"train": plan.batches.n_examples, "valid": sum(map(len, plan.valid.values()))}
    return TuningDryRun("sft", plan.resolved, sentence, examples)
