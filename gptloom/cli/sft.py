"""``gptloom sft``: a pretrained model and conversations in, a run folder with a model that answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.excerpt import beginning
from gptloom.config.python import call
from gptloom.config.resolve import Resolved
from gptloom.config.sft import SftOptions

if TYPE_CHECKING:
    from gptloom.stages.sft.result import SftRun
    from gptloom.stages.tuning.result import TuningDryRun


SHOWN = 3  # prompts with the answers before and after
WIDTH = 200  # characters of an answer


def sft(base: str | Path, *, callbacks: Sequence[Callable[..., Any]] = (), **options: Any) -> SftRun | TuningDryRun:
    """Tunes a pretrained model on prompts and answers, or conversations; the keywords are the options of ``gptloom sft``.

    ``callbacks``: hooks ``f(event, run)``, called with every event after the run's own; "stop" ends the run.
    """
    from gptloom.observe.terminal import quietly
    from gptloom.stages.sft import stage

    with quietly(bool(options.get("quiet"))):
        return call(SftOptions, lambda resolved: stage.sft(resolved, callbacks), {"base": base, **options})


def run_sft(resolved: Resolved[SftOptions], out: Output) -> None:
    """Teaches a pretrained model to answer, from prompts with answers or conversations.

    What is not given is chosen from the rows, the model and the method, and printed with its reason.
    """
    from gptloom.stages.sft import stage
    from gptloom.stages.sft.result import SftRun

    result = stage.sft(resolved)
    out.document(result.as_dict())
    if isinstance(result, SftRun):
        show_run(result, out)


def show_run(run: SftRun, out: Output) -> None:
    """The figures before and after, some answers, and what to do next."""
    if run.state.state != "finished":
        out.say(f"\nnext:  gptloom resume {run.path}")
        return
    from gptloom.observe.sft_section import changes

    before, after = run.figures["before"], run.figures["after"]
    out.table(("", "base", "tuned"), changes(before, after), right=("base", "tuned"))
    if "smoke" in after:
        for old, new in list(zip(before["smoke"]["samples"], after["smoke"]["samples"], strict=True))[:SHOWN]:
            out.say(f"\n{new['prompt']}\n  base:  {_line(old)}\n  tuned: {_line(new)}")
    out.say(f"\nnext:  gptloom chat {run.path}   gptloom report {run.path}")


def _line(sample: dict[str, Any]) -> str:
    """The beginning of an answer on one line."""
    return beginning(" ".join(sample["answer"].split()), WIDTH)


COMMANDS = {"sft": Command(SftOptions, run_sft)}
