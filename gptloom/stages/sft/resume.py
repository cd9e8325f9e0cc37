"""Going on with an instruction tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import Resolved
from gptloom.config.sft import SftOptions
from gptloom.stages.sft.data import read_sft_data
from gptloom.stages.sft.plan import plan_run
from gptloom.stages.sft.result import SftRun
from gptloom.stages.sft.stage import start
from gptloom.stages.tuning.resume import Tuning, resume_tuning
from gptloom.train.run import Hook

SFT = Tuning("sft", SftOptions, read_sft_data, plan_run, start)


def resume_sft(
    resolved: Resolved[ResumeOptions], callbacks: Sequence[Hook] = (), confirm: Callable[[str], bool] | None = None
) -> SftRun:
    """Continues a run of ``gptloom sft``; the rest is as ``resume_tuning``."""
    resume_tuning(SFT, resolved, callbacks, confirm)
    return SftRun(Path(resolved.options.run))
