"""Checkpoints: ``step-00000500/`` with the model folder, the optimizer's tensors and, written last, ``state.json``.

The weights are the fp32 masters, stored once, in the same layout as any model folder. A checkpoint is written under a
temporary name, checksummed, synced and renamed: one that has its name and its state.json is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.model.reference import finished_checkpoints
from gptloom.train.run import Run

VERSION = 1
FOLDER, STATE, MODEL, OPTIMIZER = "checkpoints", "state.json", "model", "optimizer.safetensors"
SaveModel = Callable[[Path], None]


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def save_checkpoint(run: Run, save_model: SaveModel, facts: dict[str, Any]) -> Path:
    """Writes the checkpoint of the present step; ``save_model(folder)`` writes the model folder, masters and all.

    ``facts`` is what a resumed run compares itself with: threads, versions, hashes.
    """
    target = run.path / FOLDER / name_of(run.state.step)
    if target.exists():
        return target
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_model(part / MODEL)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in run.optimizer.state_tensors().items()}
    save_file(tensors, part / OPTIMIZER)
    document = {
        "version": VERSION,
        "run": asdict(run.state),
        "guard": run.guard.state(),
        "loss_scale": run.optimizer.loss_scale and asdict(run.optimizer.loss_scale),
        "facts": facts,
        "sha256": {
            path.relative_to(part).as_posix(): _sha256(path) for path in sorted(part.rglob("*")) if path.is_file()
        },
    }
    for path in part.rglob("*"):
        _sync(path)
    write_text(part / STATE, json.dumps(document, indent=1) + "\n")
    _sync(part)
    part.rename(target)
    _sync(target.parent)
    run.emit("checkpoint", sync=True, path=f"{FOLDER}/{target.name}", kind="last")
    return target


def prune(run: Path, keep_last: int, keep_steps: Collection[int | None]) -> None:
    """Deletes all but the last ``keep_last`` checkpoints and those of ``keep_steps``."""
    steps = list(finished_checkpoints(run).items())
    for step, path in steps[: max(0, len(steps) - keep_last)]:
        if step not in keep_steps:
            _delete(path)


def forget_after(run: Path, step: int) -> None:
    """Deletes the checkpoints beyond ``step``, from which the run goes on: it will not come by those weights again."""
    for later, path in finished_checkpoints(run).items():
        if later > step:
            _delete(path)


def _delete(path: Path) -> None:
    """Takes the checkpoint's name away first, so that one broken off in the middle is not taken for a whole one."""
    hidden = path.with_name(f".{path.name}.part")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, after every file has been compared with its checksum. UserError when one differs."""
    document = _read_state(path)
    problems = []
    for name, expected in document["sha256"].items():
        if not (path / name).exists():
            problems.append(Problem("the file is missing", str(path / name)))
        elif _sha256(path / name) != expected:
            problems.append(Problem("the file is damaged: its checksum differs", str(path / name)))
    if problems:
        raise UserError(*problems, Problem("the checkpoint cannot be used", str(path), _mend(path)))
    return document


def _read_state(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        version = document["version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            Problem("the file is damaged: no state of a checkpoint", str(path / STATE), _mend(path))
        ) from None
    if version > VERSION:
        message = f"made by a newer gptloom (checkpoint version {version}, this one knows {VERSION})"
        raise UserError(Problem(message, str(path), "pip install --upgrade gptloom"))
    return document


def _mend(path: Path) -> str:
    run = path.parent.parent
    others = [step for step, other in finished_checkpoints(run).items() if other != path]
    if not others:
        return "train again: no other checkpoint is left"
    return f"move {path.name} away, then gptloom resume {run}: it goes on from step {others[-1]}"


def restore(run: Run, path: Path, document: dict[str, Any]) -> None:
    """Puts optimizer, guard and loss scale of ``run`` back; the caller has loaded the model's masters."""
    with safe_open(str(path / OPTIMIZER), framework="pt") as file:
        run.optimizer.load_state_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    run.guard.load(document["guard"])
    if run.optimizer.loss_scale is not None and document["loss_scale"] is not None:
        for name, value in document["loss_scale"].items():
            setattr(run.optimizer.loss_scale, name, value)


def masters_state(run: Run) -> dict[str, torch.Tensor]:
    """The fp32 masters by parameter name."""
    return {name: tensor.detach() for name, tensor in run.optimizer.masters.tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows syncs no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # a read-only handle cannot be synced on every system; the rename still orders the writes
        if os.name != "nt":
            raise
    finally:
        os.close(handle)
