"""One fine-tuning: one method, one seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved, write_config
from gptloom.config.run_folder import CONFIG
from gptloom.stages.claim import Claim
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.features import fit_features, uses_features
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.stages.tuning.training import train
from gptloom.train.run import Hook


def finetune_one(
    resolved: Resolved[FinetuneOptions], data: TaskData, folder: Path, callbacks: Sequence[Hook] = ()
) -> FinetunedRun:
    """Trains from the start into ``folder``; UserError, before anything is written, for all that cannot be."""
    plan = plan_run(resolved, data)
    with Claim(folder, resolved.options.overwrite) as claim:
        claim.take()
        write_config(folder / CONFIG, plan.resolved, "finetune")
        if uses_features(plan.options):
            fit_features(plan, claim, callbacks)
        else:
            train(plan, claim, callbacks)
    return FinetunedRun(folder)
