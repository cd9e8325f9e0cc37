"""A run for every method and seed below one folder: refused before the first begins, and gone on with where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.finetune import METHODS, FinetuneOptions
from gptloom.config.options import option_fields
from gptloom.config.pretrain import ResumeOptions
from gptloom.config.resolve import Resolved, resolve
from gptloom.config.run_folder import CHECKPOINTS, STATE
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.terminal import quietly, say
from gptloom.stages.finetune.comparison import Comparison, line_of, write_comparison
from gptloom.stages.finetune.conflicts import STEPS
from gptloom.stages.finetune.data import TaskData
from gptloom.stages.finetune.features import uses_features
from gptloom.stages.finetune.one import finetune_one
from gptloom.stages.finetune.plan import plan_run
from gptloom.stages.finetune.result import FinetunedRun
from gptloom.stages.finetune.resume import resume_finetuning
from gptloom.stages.tuning.part import LORA_OPTIONS
from gptloom.train.lock import NAME as LOCK
from gptloom.train.lock import RunLock
from gptloom.train.run import Hook

OPTIONS = "options.json"
OF_A_METHOD = {
    "last": ("layers",),
    "feature": ("classifier",),
    "lora": LORA_OPTIONS,
}
NO_MATTER = ("out", "overwrite", "quiet", "json_", "yes", "threads", "device")  # for what a run comes to


def compare_runs(
    resolved: Resolved[FinetuneOptions], data: TaskData, folder: Path, callbacks: Sequence[Hook]
) -> Comparison:
    """All runs in turn and their table. Those that are finished stay as they are, and a begun one goes on.

    UserError, before anything is written, when one of the methods is refused, the folder holds something else or a
    comparison of other options or rows, or another process works in it.
    """
    _check_folder(folder, resolved, data)
    methods = methods_of(resolved)
    with quietly(True):
        for method in methods:
            plan_run(of_method(resolved, method), data)
    with _claimed(folder, resolved, data):
        return _run_all(resolved, data, folder, methods, callbacks)


def _run_all(
    resolved: Resolved[FinetuneOptions],
    data: TaskData,
    folder: Path,
    methods: Sequence[str],
    callbacks: Sequence[Hook],
) -> Comparison:
    options = resolved.options
    side = "test" if data.test else "valid"
    comparison = Comparison(folder, options.metric or "", side, (), done=False)
    for method in methods:
        runs = []
        seeds = _seeds_of(of_method(resolved, method).options)
        parts = [method] if len(methods) > 1 or len(seeds) == 1 else []
        for seed in seeds:
            name = "/".join([*parts, *([f"seed-{seed}"] if len(seeds) > 1 else [])])
            say(f"\n{name}")
            own = of_method(resolved, method, seed=seed, seeds=None, out=str(folder / name), overwrite=True)
            runs.append(_finished(folder / name) or _begin_or_go_on(own, data, folder / name, callbacks))
            if runs[-1].state.state != "finished":
                say(f"stopped: {runs[-1].state.reason}; the same command goes on with what is not done")
                return comparison
        name = "patterns" if options.train else method
        lines = (*comparison.lines, line_of(name, runs, side))
        comparison = Comparison(folder, runs[0].figures["metric"], side, lines, done=method == methods[-1])
        write_comparison(comparison)
    return comparison


def _seeds_of(options: FinetuneOptions) -> list[int]:
    """Those of the runs of one method: one alone where none would change anything, as for features of a trained body."""
    alike = uses_features(options) and not (options.fresh or options.untrained)
    return [options.seed + number for number in range(1 if alike else options.seeds or 1)]


def methods_of(resolved: Resolved[FinetuneOptions]) -> tuple[str, ...]:
    """What is trained in turn."""
    return METHODS if resolved.options.method == "all" else (resolved.options.method,)


def of_method(resolved: Resolved[FinetuneOptions], method: str, **changes: Any) -> Resolved[FinetuneOptions]:
    """The options of one run; of those for all methods without what this one would not heed."""
    sources = dict(resolved.sources)
    if resolved.options.method == "all":
        fields = option_fields(FinetuneOptions)
        idle = [name for other, names in OF_A_METHOD.items() if other != method for name in names]
        for name in [*idle, *(STEPS if method == "feature" else ())]:
            changes[name] = fields[name].get_default(call_default_factory=True)
            sources.pop(name, None)
    options = resolved.options.model_copy(update={"method": method, **changes})
    return Resolved(options, sources, resolved.rules)


def _finished(folder: Path) -> FinetunedRun | None:
    run = FinetunedRun(folder)
    done = (folder / STATE).is_file() and run.state.state == "finished" and run.figures
    return run if done else None


def _begin_or_go_on(
    resolved: Resolved[FinetuneOptions], data: TaskData, folder: Path, callbacks: Sequence[Hook]
) -> FinetunedRun:
    if not (folder / STATE).is_file() or not finished_checkpoints(folder):
        return finetune_one(resolved, data, folder, callbacks)
    options = resolved.options
    given = {"run": str(folder), "quiet": options.quiet, "yes": options.yes, "threads": options.threads}
    return resume_finetuning(resolve(ResumeOptions, given), callbacks)


# ---- the folder ------------------------------------------------------------------------------------------------------


def _description(resolved: Resolved[FinetuneOptions], data: TaskData) -> str:
    """What all runs of a comparison have in common, as text."""
    given = {name: setting.value for name, setting in resolved.settings().items() if name not in NO_MATTER}
    return json.dumps({"options": given, "rows": data.hash}, sort_keys=True, indent=1, default=str) + "\n"


def _check_folder(folder: Path, resolved: Resolved[FinetuneOptions], data: TaskData) -> None:
    path = folder / OPTIONS
    if folder.exists() and not folder.is_dir():
        raise UserError(Problem("there is a file of this name", str(folder), "another --out"))
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return
    if not path.is_file():
        raise UserError(Problem("the folder is not empty and holds no comparison", str(folder), "another --out"))
    if not resolved.options.overwrite and path.read_text(encoding="utf-8") != _description(resolved, data):
        what = "a comparison with other options or rows is in this folder"
        raise UserError(Problem(what, str(folder), "another --out, or --overwrite"))


@contextmanager
def _claimed(folder: Path, resolved: Resolved[FinetuneOptions], data: TaskData) -> Iterator[None]:
    """The folder for this process alone: with what was done of the same comparison, or emptied for --overwrite."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock(folder)
        lock.acquire()
    except OSError as error:
        message = f"the folder cannot be written ({error.strerror})"
        raise UserError(Problem(message, str(folder), "another --out")) from None
    try:
        if resolved.options.overwrite:
            _empty(folder, lock)
        write_text(folder / OPTIONS, _description(resolved, data))
        yield
    finally:
        lock.release()


def _empty(folder: Path, lock: RunLock) -> None:
    """Deletes what an earlier comparison left; UserError when one of its runs is being resumed just now."""
    for state in folder.rglob(STATE):
        if state.parent.parent.name == CHECKPOINTS:
            continue
        own = RunLock(state.parent)
        own.acquire()
        own.release()
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != lock.path:
            path.unlink()
