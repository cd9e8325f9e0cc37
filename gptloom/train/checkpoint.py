"""Checkpoints: ``step-00000500/`` with the model folder, the optimizer's tensors and, written last, ``state.json``.

The weights are the fp32 masters, stored once. One process writes them in the layout of any model folder, and the
optimizer as ``optimizer.safetensors``; several write each its own pieces, ``model/shard-...`` and ``optimizer/shard-...``.
Either is read by any number of processes. A checkpoint is written under a temporary name, checksummed, synced and
renamed (``snapshot``): one that has its name and its state.json is whole, until something harms it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import CHECKPOINTS, MODEL, STATE
from gptloom.model.checksum import ALGORITHM, file_sum
from gptloom.model.reference import finished_checkpoints
from gptloom.model.weight_files import SHARDS, WeightFiles
from gptloom.train.run import Run
from gptloom.train.sharded_checkpoint import fill
from gptloom.train.world import World

VERSION = 3  # 1 and 2, of one process and of several, had checksums by sha256
OPTIMIZER, OPTIMIZER_PIECES = "optimizer.safetensors", "optimizer"
KNOWN = {"version", "run", "guard", "loss_scale", "facts", "sha256", ALGORITHM}  # what state.json has besides
SEAL = "seal"  # of state.json: the sha256 of all else in it
Document = dict[str, Any]


def name_of(step: int) -> str:
    return f"step-{step:08d}"


# ---- what is sound ---------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path, world: World | None = None) -> Document:
    """The state of a checkpoint, after every file has been compared with its checksum. UserError when one differs.

    The processes of ``world``, if given, share the work and hear the same.
    """
    world = world or World()
    document, problems = _examine(path, world)
    if problems:
        kept = _mend(path)
        world.first_does(lambda: _refuse([*problems, Problem("the checkpoint cannot be used", str(path), kept)]))
    return document


def newest_sound(run: Path, world: World | None = None) -> tuple[int, Path, Document, list[Problem]]:
    """Step, folder and state of the newest checkpoint that is whole, and what is wrong with those after it.

    The processes of ``world``, if given, share the work and hear the same. UserError when there is none.
    """
    world = world or World()
    problems: list[Problem] = []
    for path in [run / CHECKPOINTS / name for name in world.share(_by_age(run))]:
        document, found = _examine(path, world)
        if not found:
            return int(path.name.removeprefix("step-")), path, document, problems
        problems += found
    nothing = Problem("no checkpoint of this run can be used", str(run), "train again: --overwrite, or another --out")
    world.first_does(lambda: _refuse([*problems, nothing]))
    raise AssertionError("unreachable")


def _by_age(run: Path) -> list[str]:
    """The names of all checkpoints, also those that have lost their state.json, the newest first."""
    names = [path.name for path in (run / CHECKPOINTS).glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(names, key=lambda name: int(name.removeprefix("step-")), reverse=True)


def _refuse(problems: Iterable[Problem]) -> None:
    raise UserError(*problems)


def _examine(path: Path, world: World) -> tuple[Document, list[Problem]]:
    """The state of the checkpoint, and all that is wrong with it. UserError when a newer gptloom made it."""
    document, unreadable = world.first_does(lambda: _read_state(path))
    if unreadable:
        return {}, [Problem(*problem) for problem in unreadable]
    algorithm = _algorithm(document)
    known: dict[str, str] = document[algorithm]
    astray = [file for file in path.rglob("*.safetensors") if file.relative_to(path).as_posix() not in known]
    problems = [Problem("the file is not of this checkpoint", str(file), "move it away") for file in sorted(astray)]
    largest_first = sorted(known, key=lambda name: (-_size(path / name), name))
    found: list[Any] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, what in pool.map(
            lambda name: (name, _harm(path / name, algorithm, known[name])), largest_first[world.rank :: world.size]
        ):
            found += [[what, str(path / name)]] if what else []
    problems += [Problem(*problem) for part in world.gather(found) for problem in part]
    return document, problems


def _algorithm(document: Document) -> str:
    """With what the checksums of a checkpoint were made."""
    return ALGORITHM if document["version"] >= 3 else "sha256"


def _harm(path: Path, algorithm: str, expected: str) -> str | None:
    if not path.is_file():
        return "the file is missing"
    return None if file_sum(path, algorithm) == expected else "the file is damaged: its checksum differs"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_state(path: Path) -> tuple[Document, list[list[str]]]:
    """The content of state.json, and what is wrong with it."""
    file = path / STATE
    try:
        document: Document = json.loads(file.read_text(encoding="utf-8"))
        version, expected = document["version"], document.pop(SEAL, None)
        # The first ones had no seal; one under another name is of a letter that was harmed.
        whole = expected == seal(document) or (expected is None and not set(document) - KNOWN)
        whole = whole and (version > VERSION or isinstance(document[_algorithm(document)], dict))
    except FileNotFoundError:
        return {}, [["the file is missing: the checkpoint was never finished, or is half deleted", str(file)]]
    except (ValueError, KeyError, TypeError, AttributeError):
        whole, version = False, 0
    if not whole:
        return {}, [["the file is damaged: no state of a checkpoint", str(file)]]
    if version > VERSION:
        message = f"made by a newer gptloom (checkpoint version {version}, this one knows {VERSION})"
        raise UserError(Problem(message, str(path), "pip install --upgrade gptloom"))
    return document, []


def seal(document: Mapping[str, Any]) -> str:
    """What ``state.json`` says of its own content, so that a flipped bit in a number is noticed too."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _mend(path: Path) -> str:
    run = path.parent.parent
    others = [step for step, other in finished_checkpoints(run).items() if other != path]
    if not others:
        return "train again: no other checkpoint is left"
    return f"move {path.name} away, then gptloom resume {run}: it goes on from step {others[-1]}"


# ---- reading ---------------------------------------------------------------------------------------------------------


def restore(run: Run, path: Path, document: Document) -> None:
    """Puts masters, optimizer, guard and loss scale back, whoever wrote them; the values that were there are lost.

    A process reads what it holds of each tensor, one tensor at a time. UserError when the model is another one.
    """
    masters = masters_state(run)
    restore_weights(run, path)
    with _optimizer_files(path) as files:
        state = {key: _like(masters[key.rpartition("/")[0]], files, key) for key in files.shapes}
        for key, tensor in state.items():
            fill(tensor, partial(files.read, key))
    run.optimizer.load_state_tensors(state)
    run.guard.load(document["guard"])
    if run.optimizer.loss_scale is not None and document["loss_scale"] is not None:
        for name, value in document["loss_scale"].items():
            setattr(run.optimizer.loss_scale, name, value)


def restore_weights(run: Run, path: Path) -> None:
    """Puts the weights of a checkpoint into masters and model, and nothing else back. UserError when they are another's."""
    masters = masters_state(run)
    with run.form.open(path / MODEL) as weights:
        stored = {name: tuple(weights.empty(name).shape) for name in weights}
        _check_same(stored, {name: tuple(tensor.shape) for name, tensor in masters.items()}, path)
        for name, master in masters.items():
            fill(master, partial(weights.box, name))
    run.optimizer.masters.refresh()


def masters_state(run: Run) -> dict[str, Tensor]:
    """The fp32 masters that a checkpoint holds, by parameter name."""
    tensors = run.optimizer.masters.tensors
    return {name: tensor.detach() for name, tensor in tensors.items() if run.form.keeps(name)}


def _check_same(stored: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]], path: Path) -> None:
    differing = [name for name in sorted({*stored, *here}) if stored.get(name) != here.get(name)]
    if differing:
        name, *others = differing
        more = f" (and {len(others)} more)" if others else ""
        what = f"the checkpoint is of another model: {name} is {_shape(stored, name)} there, {_shape(here, name)} here"
        raise UserError(Problem(what + more, str(path), "the run that the checkpoint belongs to"))


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "missing"


def _optimizer_files(path: Path) -> WeightFiles:
    if (path / OPTIMIZER).is_file():
        return WeightFiles(path, [OPTIMIZER])
    folder = path / OPTIMIZER_PIECES
    return WeightFiles(folder, sorted(file.name for file in folder.glob(SHARDS)))


def _like(master: Tensor, files: WeightFiles, key: str) -> Tensor:
    """An empty tensor for a quantity of the optimizer: spread as the master is, or a number of its own."""
    if not files.shapes[key]:
        return torch.empty((), dtype=files.dtypes[key])
    return torch.empty_like(master, dtype=files.dtypes[key])


# ---- the folder of checkpoints ---------------------------------------------------------------------------------------


def prune(run: Path, keep_last: int, keep_steps: Collection[int | None]) -> list[Path]:
    """Takes all but the last ``keep_last`` checkpoints and those of ``keep_steps`` out of the run: hidden folders to delete."""
    steps = list(finished_checkpoints(run).items())
    return [_hide(path) for step, path in steps[: max(0, len(steps) - keep_last)] if step not in keep_steps]


def forget_after(run: Path, step: int) -> None:
    """Deletes the checkpoints beyond ``step``, from which the run goes on: it will not come by those weights again."""
    for later, path in finished_checkpoints(run).items():
        if later > step:
            shutil.rmtree(_hide(path))


def _hide(path: Path) -> Path:
    """Takes a checkpoint's name away, so that a deletion broken off in the middle leaves none that looks whole."""
    hidden = path.with_name(f".{path.name}.part")
    shutil.rmtree(hidden, ignore_errors=True)
    return path.rename(hidden)


# ---- files -----------------------------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
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
