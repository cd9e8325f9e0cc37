"""Opens what a fine-tuning made: a classifier, whether its body is ours or another library's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import TaskConfig
from gptloom.generation.classifier import Classifier
from gptloom.interop import open as models
from gptloom.interop.bodies import is_foreign, open_foreign
from gptloom.interop.hub import resolve_model
from gptloom.model.folder import CONFIG_FILE
from gptloom.model.reference import Reference
from gptloom.model.store import own_task, read_task
from gptloom.train.precision import choose_device, choose_dtype


def load(
    reference: str | Path | Reference,
    *,
    device: str = "auto",
    precision: str = "auto",
    untrained: bool = False,
    compile: bool | None = None,
    slots: int = 16,
) -> models.OpenedModel | Classifier:
    """Opens a model: one that was fine-tuned for a task classifies (``classify``), every other writes and scores.

    One that was taught to hold conversations answers them as well (``chat``).

    Args:
        reference: a run folder, ``runs/x@500`` (or ``@best``, ``@last``), a model or adapter folder, ``hf:`` and a folder
            or a name of the Hugging Face hub, or, with ``untrained``, a preset.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, ``bf16``, ``int8`` (writing only), or ``auto``: bf16 for 30M parameters and more where it is
            fast.
        untrained: take a preset as it is, with random weights (seed 0); ``modern`` and ``fast`` then read bytes.
        compile: writing only: compile the step for a single row, always or never; by default where it pays.
        slots: writing only: how many completions are written side by side.

    Raises:
        UserError: nothing is called that, a preset without ``untrained``, ``untrained`` with trained weights, a model
            folder that cannot be read, a tokenizer that does not fit it, or a model that fills masks (BERT).
    """
    found = resolve_model(reference)
    if not untrained and _task_of(found.path) is not None:
        idle = {"compile": compile is not None, "slots": slots != 16, "precision": precision == "int8"}
        if given := [name for name, there in idle.items() if there]:
            raise UserError(Problem(f"{', '.join(given)}: this model answers, and does not write", found.name))
        return open_classifier(found, device=device, precision=precision)
    return models.load(found, device=device, precision=precision, untrained=untrained, compile=compile, slots=slots)


def open_classifier(reference: str | Path | Reference, *, device: str = "auto", precision: str = "auto") -> Classifier:
    """The classifier of a fine-tuned run or model folder.

    Raises:
        UserError: nothing is called that, it was never fine-tuned for a task, or it cannot be read.
    """
    found = resolve_model(reference)
    task = task_of(found)
    assert found.path is not None
    opened: tuple[Any, Any]
    if is_foreign(found.path):
        place = choose_device(device)
        dtype, _ = choose_dtype(precision, place)
        opened = open_foreign(found, device=place, compute_dtype=dtype)
    else:
        opened = models.open_model(found, device=device, precision=precision)
    model, tokenizer = opened
    return Classifier(model, tokenizer, task)


def task_of(reference: str | Path | Reference) -> TaskConfig:
    """What a model was fine-tuned for, without reading its weights; raises as ``open_classifier``."""
    found = resolve_model(reference)
    task = _task_of(found.path)
    if task is None:
        mend = f"gptloom finetune {found.name} --task classify --data FILE"
        raise UserError(Problem("this model was not fine-tuned for a task", found.name, mend))
    return task


def _task_of(folder: Path | None) -> TaskConfig | None:
    """What a model folder was fine-tuned for; None where it was not, or names an untrained preset or an adapter."""
    if folder is None or not (folder / CONFIG_FILE).is_file():
        return None
    return own_task(folder) if is_foreign(folder) else read_task(folder)
