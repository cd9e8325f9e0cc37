"""``gptloom finetune``: a pretrained model and labelled rows in, a run folder with a model that answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.python import call
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.stages.finetune.comparison import Comparison
    from gptloom.stages.finetune.result import FinetunedRun
    from gptloom.stages.tuning.result import TuningDryRun


def finetune(
    base: str | Path, *, callbacks: Sequence[Callable[..., Any]] = (), **options: Any
) -> FinetunedRun | Comparison | TuningDryRun:
    """Fine-tunes a pretrained model for a task; the keywords are the options of ``gptloom finetune``.

    ``callbacks``: hooks ``f(event, run)``, called with every event after the run's own; "stop" ends the run.
    """
    from gptloom.observe.terminal import quietly
    from gptloom.stages.finetune import stage

    with quietly(bool(options.get("quiet"))):
        return call(FinetuneOptions, lambda resolved: stage.finetune(resolved, callbacks), {"base": base, **options})


def run_finetune(resolved: Resolved[FinetuneOptions], out: Output) -> None:
    """Fine-tunes a pretrained model for a task, with labelled rows of a table.

    What is not given is chosen from the rows, the model and the method, and printed with its reason.
    """
    from gptloom.stages.finetune import stage
    from gptloom.stages.finetune.comparison import Comparison
    from gptloom.stages.finetune.result import FinetunedRun

    result = stage.finetune(resolved)
    out.document(result.as_dict())
    if isinstance(result, Comparison):
        out.table(result.header, result.rows(), right=result.header[1:])
        if result.done:
            out.say(f"\nthe table and its picture: {result.path}/comparison.md, .json, .png")
    elif isinstance(result, FinetunedRun):
        show_run(result, out)


def show_run(run: FinetunedRun, out: Output) -> None:
    """The figures of a run beside those of a constant answer, and what to do next."""
    from gptloom.observe.glossary import interval_text, main_metrics, written

    if run.state.state != "finished":
        out.say(f"\nnext:  gptloom resume {run.path}")
        return
    rows = [
        (
            {"valid": "validation", "test": "test"}[side],
            name,
            written(name, value),
            interval_text(name, report["intervals"].get(name)),
            written(name, report["baseline"][name]),
        )
        for side, report in run.figures.items()
        if side in ("valid", "test")
        for name, value in report["metrics"].items()
        if name in main_metrics(report["metrics"], run.figures["metric"])
    ]
    out.table(("rows", "metric", "value", "95 % interval", "constant answer"), rows, right=("value", "constant answer"))
    task = run.model.task
    second = "" if task.columns.second is None else ' --second "..."'
    use = "--data FILE" if task.task == "choice" else f'--text "..."{second}'
    out.say(f"\nnext:  gptloom predict {run.path} {use}   gptloom report {run.path}")


COMMANDS = {"finetune": Command(FinetuneOptions, run_finetune)}
