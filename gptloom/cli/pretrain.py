"""``gptloom pretrain`` and ``gptloom resume``: a text file in, a run folder with a trained GPT out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.finetune import show_run as show_finetuned
from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.sft import show_run as show_instructed
from gptloom.config.errors import EndedElsewhere
from gptloom.config.pretrain import PretrainOptions, ResumeOptions
from gptloom.config.python import call
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.stages.on_disk import RunOnDisk
    from gptloom.stages.pretrain import DryRun
    from gptloom.stages.trained import TrainedRun


def pretrain(
    base: str | Path | None = None, *, callbacks: Sequence[Callable[..., Any]] = (), **options: Any
) -> TrainedRun | DryRun:
    """Trains a GPT on text; the keywords are the options of ``gptloom pretrain``.

    ``callbacks``: hooks ``f(event, run)``, called with every event after the run's own; "stop" ends the run.
    """
    from gptloom.observe.terminal import quietly
    from gptloom.stages import pretrain as stage

    with quietly(bool(options.get("quiet"))):
        return call(PretrainOptions, lambda resolved: stage.pretrain(resolved, callbacks), {"base": base, **options})


def resume(run: str | Path, *, callbacks: Sequence[Callable[..., Any]] = (), **options: Any) -> RunOnDisk:
    """Continues a run where it stopped; the keywords are the options of ``gptloom resume``."""
    from gptloom.observe.terminal import quietly
    from gptloom.stages.going_on import resume

    with quietly(bool(options.get("quiet"))):
        return call(ResumeOptions, lambda resolved: resume(resolved, callbacks), {"run": run, **options})


def run_pretrain(resolved: Resolved[PretrainOptions], out: Output) -> int | None:
    """Trains a GPT on text files: a new one, or, with BASE, a trained model further.

    What is not given is chosen from the text and the machine, and printed with its reason.
    """
    from gptloom.stages import pretrain as stage
    from gptloom.stages.joining import asks_for_processes, speaks

    starts_others = asks_for_processes(resolved.options)
    result = stage.pretrain(
        resolved, confirm=lambda question: not out.at_terminal or out.ask(question, resolved.options.yes)
    )
    if (starts_others and not resolved.options.dry_run) or not speaks():
        raise EndedElsewhere(0)  # the first of the processes has said it
    out.document(stage.as_document(result))
    if not isinstance(result, stage.DryRun):
        _say_next(result, out)
    return None


def run_resume(resolved: Resolved[ResumeOptions], out: Output) -> int | None:
    """Continues a run exactly where it stopped; with a larger budget, extends a finished one."""
    from gptloom.stages.finetune.result import FinetunedRun
    from gptloom.stages.going_on import resume
    from gptloom.stages.joining import speaks
    from gptloom.stages.pretrain import as_document
    from gptloom.stages.resume import started_others
    from gptloom.stages.sft.result import SftRun
    from gptloom.stages.trained import TrainedRun

    yes = resolved.options.yes

    def confirm(question: str) -> bool:
        return out.ask(question, yes) if out.at_terminal else yes

    result = resume(resolved, confirm=confirm)
    if isinstance(result, FinetunedRun | SftRun):
        out.document(result.as_dict())
        show_finetuned(result, out) if isinstance(result, FinetunedRun) else show_instructed(result, out)
        return None
    assert isinstance(result, TrainedRun)
    if started_others(resolved) or not speaks():
        raise EndedElsewhere(0)
    out.document(as_document(result))
    _say_next(result, out)
    return None


def _say_next(result: TrainedRun, out: Output) -> None:
    if result.state.state == "finished":
        use = 'fill-mask {} --text "... [MASK] ..."' if result.fills_masks else 'generate {} --prompt "..."'
        out.say(f"\nnext:  gptloom {use.format(result.path)}   gptloom report {result.path}")
    else:
        out.say(f"\nnext:  gptloom resume {result.path}")


COMMANDS = {
    "pretrain": Command(PretrainOptions, run_pretrain),
    "resume": Command(ResumeOptions, run_resume),
}
