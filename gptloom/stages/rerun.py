"""``gptloom rerun``: a finished run again, from what it recorded, and the proof that the same came out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.options import OutputOptions, option_fields
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import DERIVED, Resolved, resolve
from gptloom.config.run_folder import CONFIG, DATA, EVENTS, MODEL
from gptloom.config.verify import RerunOptions
from gptloom.data.built import read_manifest
from gptloom.model.dtypes import PRECISIONS
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import content_hash, read_config, read_lineage
from gptloom.observe.events import read_events
from gptloom.observe.runs import check_run
from gptloom.stages.architecture import SHAPE, open_base
from gptloom.stages.compare_runs import Comparison, Part, compare_runs
from gptloom.stages.joining import speaks
from gptloom.stages.on_disk import command_of
from gptloom.stages.pretrain import pretrain
from gptloom.stages.task import data_identity, stored_options
from gptloom.stages.text import read_text
from gptloom.stages.trained import TrainedRun
from gptloom.train.checkpoint import read_checkpoint
from gptloom.train.reproducible import differences
from gptloom.train.run import RunState, read_state

# Where bits cannot agree, training is chaotic: weights part within some hundred steps, losses stay together. These are
# the largest relative differences of a loss that are put down to rounding.
TOLERANCES = {"float32": 1e-3, "bfloat16": 1e-2, "float16": 1e-2}
JUDGED = ("training losses", "validation", "learning rates and tokens")
BUDGETS = ("max_epochs", "max_minutes", "max_train_tokens")  # became a number of steps, and time is not the same twice


@dataclass(frozen=True)
class Repeated:
    """What ``gptloom.rerun`` returns; without ``verify`` there is no comparison."""

    run: TrainedRun
    original: Path
    comparison: Comparison | None = None
    tolerance: float = 0.0  # relative, of losses; 0: everything to the bit
    changed: tuple[str, ...] = ()  # what is not as it was, and may change the last bits

    @property
    def beyond(self) -> list[Part]:
        """What differs by more than it may."""
        if self.comparison is None:
            return []
        beyond = self.comparison.beyond(self.tolerance)
        return [part for part in beyond if part.name in JUDGED] if self.tolerance else beyond

    @property
    def holds(self) -> bool:
        return not self.beyond

    @property
    def verdict(self) -> str:
        """A sentence."""
        assert self.comparison is not None
        if self.beyond:
            return f"another result: {'; '.join(part.told(self.tolerance) for part in self.beyond)}"
        if self.comparison.exact:
            return "the same result to the bit"
        largest = max(part.distance for part in self.comparison.parts if part.name in JUDGED)
        return f"the same losses within {self.tolerance:.0e} (largest difference {largest:.1e})"


@dataclass(frozen=True)
class Record:
    """What a finished run says about itself."""

    folder: Path
    options: Resolved[PretrainOptions]
    state: RunState
    starts: list[dict[str, Any]]  # its ``start`` events, one for each process that worked on it
    model: Path  # of its last checkpoint
    facts: dict[str, Any]  # of its last checkpoint

    @classmethod
    def read(cls, folder: Path) -> Record:
        """UserError when the folder is no finished run, or no single training leads to where it ended."""
        check_run(folder)
        if command_of(folder) not in (None, "pretrain"):
            mend = f"repeat it by its own command with another --out; {folder / CONFIG} has its options"
            raise UserError(Problem("the tuning of a model is not repeated from its folder", str(folder), mend))
        state, kept = read_state(folder), finished_checkpoints(folder)
        if state.state != "finished" or not kept:
            raise UserError(Problem(f"the run is {state.state}, not finished", str(folder), f"gptloom resume {folder}"))
        if state.begin:
            what = f"the run was extended at step {state.begin} by a new warm-up: no single training repeats it"
            raise UserError(Problem(what, str(folder), "repeat a run that was not extended so"))
        last = kept[max(kept)]
        starts = [event for event in read_events(folder / EVENTS) if event["type"] == "start"]
        return cls(folder, stored_options(folder), state, starts, last / MODEL, read_checkpoint(last)["facts"])

    @property
    def given(self) -> dict[str, Any]:
        """The options that repeat it: all that were given or derived, what it found on its machine held fast."""
        known, shown = option_fields(PretrainOptions), option_fields(OutputOptions)
        given = {
            name: setting.value
            for name, setting in self.options.settings().items()
            if name not in (*shown, *BUDGETS, "recipe")
            and setting.value != known[name].get_default(call_default_factory=True)
        }
        config = read_config(self.model)
        if self.options.options.base is None:
            given |= {name: getattr(config, name) for name in (*SHAPE, "context")}  # a family's size is measured
        else:
            given.pop("context", None)  # the base's
        if self.options.source("final_lr") == DERIVED:
            del given["final_lr"]  # of a constant schedule it may not be given
        if not self.options.options.nodes:
            given["processes"] = self.facts.get("processes", 1)
        if given.get("processes") == 1:
            given.pop("strategy", None)
        return given | {
            "precision": PRECISIONS[self.facts["precision"]],
            "threads": self.facts["threads"],
            "max_steps": self.state.steps,
        }

    def unlike(self, other: Record) -> tuple[str, ...]:
        """What may give other bits than in ``other``, within each of them as well, as ``name: there, now here``."""
        names = ("compile", "precision", "processes", "parallel", "tokenizer")
        facts = [(name, other.facts.get(name), self.facts.get(name)) for name in names]
        found = [f"{name}: {there}, now {here}" for name, there, here in facts if there != here]
        last = other.starts[-1]
        found += differences(last.get("repeat", {}), self.starts[-1].get("repeat", {}))
        for start in other.starts[:-1]:
            within = differences(start.get("repeat", {}), last.get("repeat", {}))
            if start.get("parallel") != last.get("parallel"):
                within.append(f"processes: {start.get('parallel')}, now {last.get('parallel')}")
            found += [f"in the run itself, since it started from step {start['step']}: {what}" for what in within]
        if self.on_gpu:
            found.append("computed on a GPU, which may add up in any order")
        return tuple(dict.fromkeys(found))

    @property
    def on_gpu(self) -> bool:
        """Whether it computed on an accelerator: with ``--device auto`` where there was one."""
        machine, device = self.starts[-1].get("machine", {}), self.options.options.device
        return device in ("cuda", "mps") or (device == "auto" and bool(machine.get("gpus") or machine.get("mps")))


def rerun(resolved: Resolved[RerunOptions]) -> Repeated:
    """Trains once more as a finished run did, into a folder of its own, and compares with ``verify``.

    UserError when there is no finished run, or its text or base model is not what it was.
    """
    options = resolved.options
    if options.tolerance is not None and not options.verify:
        raise UserError(Problem("--tolerance does nothing without --verify", mend="--verify, or leave it out"))
    record = Record.read(Path(options.run))
    check_inputs(record)
    name = record.folder.resolve().name
    out = options.out or f"runs/rerun-{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    again = {**record.given, "out": out, "quiet": options.quiet}
    result = pretrain(resolve(PretrainOptions, again, given_source=f"rerun of {record.folder}"))
    assert isinstance(result, TrainedRun)
    if not options.verify or result.state.state != "finished" or not speaks():
        return Repeated(result, record.folder)
    changed = Record.read(result.path).unlike(record)
    tolerance = options.tolerance or (TOLERANCES[record.facts["precision"]] if changed else 0.0)
    return Repeated(result, record.folder, compare_runs(result.path, record.folder), tolerance, changed)


def check_inputs(record: Record) -> None:
    """UserError for text and base model that are not what the run read."""
    options = record.options.options
    text = read_text(options)
    if text.corpus is not None:
        built = read_manifest(record.folder / DATA)
        same = built is not None and built.hash == text.corpus.hash
    else:
        assert text.shards is not None
        same = data_identity(text.shards) == record.facts["data"]
    problems = []
    if not same:
        what = "the text has changed since the run read it, or is split in another way"
        problems.append(Problem(what, ", ".join(options.data), "put the old text back"))
    base = open_base(record.options)
    hashes = [parent["hash"] for parent in read_lineage(record.model)["lineage"]["parents"]]
    if base is not None and hashes != [content_hash(base.folder)]:
        what = "the base model has changed since the run started from it"
        problems.append(Problem(what, str(base.folder), "put the old one back"))
    if problems:
        raise UserError(*problems)
