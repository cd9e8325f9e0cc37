"""Going on with a fine-tuning for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gptloom.config.finetune import FinetuneOptions
from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import Resolved
from gptloom.stages.finetune.data import read_task_data
from gptloom.stages.finetune.features import fit_features, uses_features
from gptloom.stages.finetune.one import finetune_one
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.stages.tuning.resume import Tuning, resume_tuning
from gptloom.train.run import Hook

FINETUNING = Tuning("finetune", FinetuneOptions, read_task_data, plan_run, finetune_one, uses_features, fit_features)


def resume_finetuning(
    resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook] = (), confirm: Callable[[str], bool] | None = None
) -> FinetunedRun:
    """Continues a run of ``gptloom finetune``; the rest is as ``resume_tuning``."""
    resume_tuning(FINETUNING, resolved, callbacks, confirm)
    return FinetunedRun(Path(resolved.options.run))
