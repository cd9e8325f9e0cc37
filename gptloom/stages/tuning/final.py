"""What every tuning leaves: the model of its best step, as a folder for everyone, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import CHECKPOINTS, EVENTS, FINAL
from gptloom.interop.bodies import open_body
from gptloom.interop.foreign import ForeignModel
from gptloom.model.dtypes import dtype_name
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.observe.glossary import written
from gptloom.observe.terminal import say
from gptloom.stages.on_disk import relative_path
from gptloom.stages.tuning.body import parameters_of
from gptloom.stages.tuning.forms import AdapterFolder, ForeignBody
from gptloom.stages.tuning.part import trained_parameters
from gptloom.stages.tuning.plan import Plan
from gptloom.train.checkpoint import name_of, restore_weights
from gptloom.train.disk import Room, unless_full
from gptloom.train.form import About, Form, WholeModel
from gptloom.train.memory import peak_memory
from gptloom.train.run import Hook, Run

ADAPTER = "adapter"
Event = dict[str, Any]


def about(plan: Plan, run: Run, folder: Path) -> About:
    """What a model folder of this run says of itself at the present step."""
    state = run.state
    parent = plan.body.path
    parents = [] if parent is None else [{"path": relative_path(parent, folder), "hash": plan.body.base_hash}]
    lineage = {
        "stage": plan.command,
        "parents": parents,
        "run": run.path.name,
        "step": state.step,
        "tokens": state.tokens,
        "data_hash": plan.data_hash,
        "options": {name: setting.value for name, setting in plan.resolved.settings().items()},
        "metrics": {"valid_loss": state.valid_loss, plan.metric: state.best_value},
    }
    facts = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gptloom": gptloom.__version__,
        "precision": dtype_name(plan.dtype),
        **plan.made_of,
    }
    config: Any = plan.body.model.config
    return plan.described(About(config, plan.body.tokenizer, lineage, facts))


def finish(plan: Plan) -> Hook:
    """Writes ``final/`` and the figures while the run still counts as running: broken off here, it is resumed."""

    def finish(event: Event, run: Run) -> None:
        if event["type"] != "closing" or not run.complete:
            return
        if run.state.best_step is None and run.state.stale_evaluations:
            what = "every evaluation met scores that are no numbers: there is no model to keep"
            mend = f"a smaller --lr than {plan.options.lr:g}, or --clip 1; --overwrite begins anew"
            raise UserError(Problem(what, str(run.path), mend))
        best = run.state.best_step or run.state.step
        if best != run.state.step:
            restore_weights(run, run.path / CHECKPOINTS / name_of(best))
        told = about(plan, run, run.path / FINAL)
        told = replace(told, lineage={**told.lineage, "step": best, "metrics": _figures_at(best, plan, run)})
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                parameter.data = run.optimizer.masters.tensors[name].detach().to("cpu", torch.float32)
            run.model.cpu()
        chosen = (
            "" if run.state.best_value is None else f" ({written(plan.metric, run.state.best_value)} {plan.metric})"
        )
        say(f"kept: step {best} of {run.state.step}{chosen}, in {run.path / FINAL}")
        plan.leave(run, told, cost_of(plan, run))

    return finish


def _figures_at(step: int, plan: Plan, run: Run) -> dict[str, float | None]:
    """What validation gave at the best step; the last evaluation may have been of a later one."""
    found = [event for event in read_events(run.path / EVENTS) if event["type"] == "evaluate" and event["step"] == step]
    return {"valid_loss": found[-1]["valid_loss"] if found else None, plan.metric: run.state.best_value}


def write_folders(
    plan: Plan, run: Run, told: About, learned: Mapping[str, Tensor], also: Callable[[], None] = lambda: None
) -> None:
    """``final/`` with the merged model, ``adapter/`` as PEFT has adapters, and what ``also`` writes.

    A full disk is waited for, as it is for checkpoints.
    """
    model, form = plan.body.model, plan.form

    def write() -> None:
        if isinstance(form, AdapterFolder):
            form.write(run.path / ADAPTER, learned, told)
        _write_model(model, run.path / FINAL, told)
        also()

    room = Room(run, f"the model folder {FINAL}", 4 * parameters_of(model), plan.options.wait_for_disk)
    room.wait()
    while not unless_full(write):
        room.wait(tried=True)
    room.found()


def _write_model(model: Transformer | ForeignModel, folder: Path, told: About) -> None:
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    form: Form = ForeignBody(model, open_body) if isinstance(model, ForeignModel) else WholeModel()
    form.write(folder, state, told)


def cost_of(plan: Plan, run: Run) -> dict[str, Any]:
    """What the training took; adapters must not be merged yet."""
    peak = peak_memory(plan.device)
    return {
        "seconds": run.state.seconds,
        "peak_memory": None if peak is None else max(0, peak - plan.held),
        "trained_parameters": trained_parameters(plan.body.model),
    }
