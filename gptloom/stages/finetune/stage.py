"""Fine-tuning a pretrained model for a task: one run, several seeds of one, or every method beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say
from gptloom.stages.finetune.comparison import Comparison
from gptloom.stages.finetune.conflicts import check_options
from gptloom.stages.finetune.data import TaskData, read_task_data
from gptloom.stages.finetune.features import uses_features
from gptloom.stages.finetune.one import finetune_one
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.stages.finetune.several import compare_runs, methods_of, of_method
from gptloom.stages.on_disk import default_folder
from gptloom.stages.tuning.part import part_sentence
from gptloom.stages.tuning.result import TuningDryRun
from gptloom.stages.tuning.training import foresee
from gptloom.train.run import Hook, check_free


def finetune(
    resolved: Resolved[FinetuneOptions], callbacks: Sequence[Hook] = ()
) -> FinetunedRun | Comparison | TuningDryRun:
    """Fine-tunes BASE for a task.

    Raises UserError, before anything is written, when the options, the rows or the model do not allow it. ``callbacks``
    are hooks, called after the run's own.
    """
    check_options(resolved)
    options = resolved.options
    folder = Path(options.out or default_folder("finetune", options.data[0], "rows"))
    several = options.method == "all" or options.seeds is not None
    if not options.dry_run and not several:
        check_free(folder, overwrite=options.overwrite)
    data = read_task_data(options)
    if options.dry_run:
        return _foresee(resolved, data, folder)
    if several:
        return compare_runs(resolved, data, folder, callbacks)
    return finetune_one(resolved, data, folder, callbacks)


def _foresee(resolved: Resolved[FinetuneOptions], data: TaskData, folder: Path) -> TuningDryRun:
    """Everything up to the first step, with nothing written."""
    sentences = []
    for method in methods_of(resolved):
        plan = plan_run(of_method(resolved, method), data)
        sentences.append(part_sentence(plan.body))
        if uses_features(plan.options):
            say(sentences[-1])
        else:
            plan = foresee(plan, folder)
    examples = {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
    settled = plan.resolved if len(sentences) == 1 else resolved
    return TuningDryRun("finetune", settled, "; ".join(sentences), examples)
