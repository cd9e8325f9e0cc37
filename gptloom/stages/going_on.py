"""Going on with a run, whatever stage made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import Resolved
from gptloom.stages.finetune.resume import resume_finetuning
from gptloom.stages.on_disk import RunOnDisk, command_of
from gptloom.stages.resume import resume as resume_pretraining
from gptloom.stages.sft.resume import resume_sft
from gptloom.train.run import Hook

TUNINGS = {"finetune": resume_finetuning, "sft": resume_sft}


def resume(
    resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook] = (), confirm: Callable[[str], bool] | None = None
) -> RunOnDisk:
    """Continues a run with what its stage does for that; ``confirm`` is asked before harm is passed over."""
    tuning = TUNINGS.get(command_of(Path(resolved.options.run)) or "")
    return (tuning or resume_pretraining)(resolved, callbacks, confirm)
