"""What a model reference means: a run folder, ``runs/x@500``, a checkpoint, a model folder, or a preset. No torch here."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.model import FAMILIES, SIZES, is_preset, presets
from gptloom.config.run_folder import CHECKPOINTS, FINAL, MODEL, STATE
from gptloom.model.folder import CONFIG_FILE, PICKLES, refuse_pickle
from gptloom.observe.runs import is_run, no_single_run

RUNS = Path("runs")
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Reference:
    """What a reference names.

    Attributes:
        kind: ``run`` (weights of a run), ``model`` (a model folder), ``adapter`` (a folder of low-rank adapters, which
            ``gptloom.interop.hub`` merges with their base) or ``preset`` (untrained).
        path: the model folder that holds the weights, or the adapter's; None for a preset.
        run: the run folder, for a run.
        step: the checkpoint's step; None for a run's ``final/``, a model folder or a preset.
        preset: the preset's name.
        name: what was asked for, in the user's words; "" before ``gptloom.interop.hub`` has looked at it.
    """

    kind: Literal["run", "model", "adapter", "preset"]
    path: Path | None = None
    run: Path | None = None
    step: int | None = None
    preset: str | None = None
    name: str = field(default="", compare=False)


def resolve_reference(text: str) -> Reference:
    """Finds what ``text`` names. An existing path wins over a preset of the same name.

    A run stands for its ``final/``, else its best, else its last checkpoint; ``@500``, ``@best`` and ``@last`` choose
    one. A checkpoint without ``state.json`` is unfinished and is not seen.

    Raises:
        UserError: nothing there (with the nearest names), a pickle, a run without weights, or no such checkpoint.
    """
    path = path_of(text)
    if path is not None and path.is_file():
        raise _no_model_file(path)
    if path is not None and path.is_dir():
        return _of_folder(path)
    if "@" in text:
        folder, _, which = text.rpartition("@")
        run = path_of(folder)
        if run is not None and run.is_dir():
            return _at(run, which)
    if is_preset(text):
        return Reference("preset", preset=text)
    raise UserError(_unknown(text))


def path_of(text: str) -> Path | None:
    """``text`` as a path; None where it can be none: it begins with the home of nobody, or the system finds it too long."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, OSError):
        return None
    return path


def finished_checkpoints(run: Path) -> dict[int, Path]:
    """Step -> folder of every finished checkpoint of a run, in order."""
    found = {}
    for path in (run / CHECKPOINTS).glob("step-*"):
        step = path.name.removeprefix("step-")
        if step.isdigit() and (path / STATE).is_file():
            found[int(step)] = path
    return dict(sorted(found.items()))


def _is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run, or the part of one that holds its weights."""
    return is_run(folder) or any((folder / name).is_dir() for name in (CHECKPOINTS, FINAL))


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds low-rank adapters, and not the model as well that they belong on."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG_FILE).is_file()


def _of_folder(folder: Path) -> Reference:
    if (folder / CONFIG_FILE).is_file():
        return Reference("model", folder)
    if (folder / MODEL / CONFIG_FILE).is_file():
        if not (folder / STATE).is_file():
            raise UserError(Problem(f"an unfinished checkpoint: it has no {STATE}", str(folder)))
        return Reference("model", folder / MODEL)
    if is_adapter(folder):
        return Reference("adapter", folder)
    if not _is_run(folder):
        if compared := no_single_run(folder):
            raise UserError(compared)
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise refuse_pickle(pickles[0])
        what = f"neither a model folder (it has no {CONFIG_FILE}) nor a run (no {STATE})"
        raise UserError(Problem(what, str(folder), _nearest_run(str(folder))))
    if (folder / FINAL / CONFIG_FILE).is_file():
        return Reference("run", folder / FINAL, folder)
    found = finished_checkpoints(folder)
    if not found:
        raise UserError(Problem("the run has saved no weights yet", str(folder), f"gptloom resume {folder}"))
    best = _best_step(folder)
    return _checkpoint(folder, best if best in found else max(found))


def _at(run: Path, which: str) -> Reference:
    if not _is_run(run):
        raise UserError(Problem(f"@{which} chooses a checkpoint of a run, and this is no run folder", str(run)))
    found = finished_checkpoints(run)
    kept = "kept: " + ", ".join(f"@{step}" for step in found) if found else "it keeps none"
    if which == "last" and found:
        return _checkpoint(run, max(found))
    if which == "best":
        best = _best_step(run)
        if best is None:
            raise UserError(Problem("no evaluation has chosen a best step in this run", str(run), kept))
        if best in found:
            return _checkpoint(run, best)
        raise UserError(Problem(f"the best step was {best}, and its checkpoint is not there", str(run), kept))
    if which.isdecimal() and int(which) in found:
        return _checkpoint(run, int(which))
    expected = "" if which.isdecimal() or which == "last" else "; after @ comes a step, best or last"
    raise UserError(Problem(f"there is no checkpoint @{which}{expected}", str(run), kept))


def _checkpoint(run: Path, step: int) -> Reference:
    return Reference("run", finished_checkpoints(run)[step] / MODEL, run, step)


def _best_step(run: Path) -> int | None:
    path = run / STATE
    if not path.is_file():
        return None
    try:
        best = json.loads(path.read_text(encoding="utf-8")).get("best_step")
    except (ValueError, AttributeError):
        raise UserError(Problem("broken JSON", str(path), f"name the checkpoint: {run}@last")) from None
    return best if isinstance(best, int) else None


def _no_model_file(path: Path) -> UserError:
    if path.suffix in PICKLES:
        return refuse_pickle(path)
    mend = f"its folder: {path.parent}" if path.suffix == ".safetensors" else None
    return UserError(Problem("a model is a folder, and this is a file", str(path), mend))


def _unknown(text: str) -> Problem:
    mend = _nearest_run(text)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]*\w", text):
        mend += f" For a model of the Hugging Face hub: hf:{text}"
    return Problem(f"no run, model folder or preset is called {text!r}", mend=mend)


def _nearest_run(text: str) -> str:
    """The names near ``text`` among the presets and the runs here; of a run its own name counts, wherever one looked."""
    runs = [path.as_posix() for path in sorted(RUNS.glob("*")) if _is_run(path)]
    shown = {name: name for name in (*presets(), *SIZES, *FAMILIES)} | {Path(run).name: run for run in runs}
    close = difflib.get_close_matches(Path(text.rpartition("@")[0] or text).name, shown, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(shown[name] for name in close)}?"
    return nearest(text, [*runs, *presets(), *SIZES, *FAMILIES])
