"""How fast a checkpoint of GPT-2 124M reaches the disk, and how long training stands still for it.

    python bench/checkpoint.py [--rounds 3] [--folder .] [--model gpt2] [--json FILE]

What is saved is the state of a real training, fp32 masters and AdamW's two moments (1.5 GB), by the ``Saver`` of
``gptloom pretrain``: checksums, syncs, state file, and the checkpoint before it deleted. Four sides take turns in one
process, into one folder: a plain file of the same bytes, written in order and synced once at its end (what ``dd
conv=fsync`` does); where the system can, such a file written past the system's cache; a checkpoint for which training
waits; and one with ``--async-save``, during which it goes on with steps of one short row.

Targets: the checkpoint that is waited for reaches 0.7 times the speed of the plain file; with ``--async-save`` training
stands still for 0.15 times the seconds that the other one takes. That counts all that the loop waits for: the copy, the
looks whether it is done, giving the checkpoint its name, deleting the old one. The first copy into memory that is fresh
costs more and has a row of its own. ``steps lose`` is by how much the steps done meanwhile took longer than before: the
same cores hash and write.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import Check, Figures, Result

if TYPE_CHECKING:
    from torch import Tensor

    from gptloom.config.model import ModelConfig
    from gptloom.train.run import Run
    from gptloom.train.saver import Saver
    from gptloom.train.snapshot import About

TARGET_SPEED, TARGET_PAUSE = 0.7, 0.15
PLAIN, UNCACHED = "plain file", "plain file, past the cache"
WAITED, FIRST, ASIDE = "checkpoint", "checkpoint aside, the first", "checkpoint aside"
BLOCK = 8 << 20  # bytes of a plain write
TINY_SHAPE = {"vocab_size": 101, "context": 64, "n_layer": 2, "n_head": 2, "d_model": 64}


# ---- a training that can be saved ------------------------------------------------------------------------------------


class Training:
    """A GPT-2 with its optimizer, at work in a run folder; ``step`` trains on one row of random tokens."""

    def __init__(self, run: Run, step: Callable[[], None]) -> None:
        from gptloom.train.checkpoint import masters_state

        self.run, self.step = run, step
        self.tensors = [*masters_state(run).values(), *run.optimizer.state_tensors().values()]
        self.n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)
        self.written: list[dict[str, Any]] = []  # the events of checkpoints that stand

    def timed_step(self) -> float:
        begun = time.perf_counter()
        self.step()
        return time.perf_counter() - begun

    def tidied_by(self, saver: Saver) -> None:
        """Has old checkpoints deleted as a training does that saves by ``saver``; steps are not shown to the hook."""
        from gptloom.train.hooks import Save

        self.run.hooks = [Save(saver, every=1, keep_last=1), self.note]

    def note(self, event: dict[str, Any], run: Run) -> None:
        if event["type"] == "checkpoint":
            self.written.append(event)


@contextlib.contextmanager
def at_work(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Training, ModelConfig]]:
    """The training after two steps, when the optimizer has its moments."""
    import torch

    from gptloom.config.model import ModelConfig, preset
    from gptloom.data.batch import Batch
    from gptloom.model.transformer import Transformer
    from gptloom.train.loop import forward_backward
    from gptloom.train.memory import keep_freed_memory
    from gptloom.train.objective import NextToken
    from gptloom.train.optimizers import Optimizer, OptimizerSettings
    from gptloom.train.precision import choose_dtype
    from gptloom.train.run import LoopSettings, Run

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as gptloom pretrain does
    config = ModelConfig(**{**preset(arguments.model), **(TINY_SHAPE if arguments.tiny else {})})
    dtype, _ = choose_dtype("auto", torch.device("cpu"))
    model = Transformer.initialised(config, seed=0)
    optimizer = Optimizer(model, OptimizerSettings(lr=1e-4), dtype)
    length = min(arguments.length, config.context)
    ids = torch.randint(config.vocab_size, (1, length + 1), generator=torch.Generator().manual_seed(1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(1, length))
    run = Run.create(folder / "run", LoopSettings(steps=1 << 40))
    run.model, run.optimizer = model, optimizer

    def step() -> None:
        forward_backward(run, NextToken(), batch, model, optimizer)
        optimizer.gradient_norm()
        optimizer.step()
        optimizer.zero_grad()
        run.state.step += 1

    with run.working():
        step()
        step()
        yield Training(run, step), config


# ---- the sides -------------------------------------------------------------------------------------------------------


def write_plain(tensors: list[Tensor], file: Path) -> dict[str, Any]:
    """Seconds in which all numbers get into a file and onto the disk, through the system's cache."""
    import torch

    begun = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for tensor in tensors:
            content = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(content), BLOCK):
                out.write(content[start : start + BLOCK])
        os.fsync(out.fileno())
    seconds = time.perf_counter() - begun
    file.unlink()
    return {"seconds": seconds}


def write_uncached(n_bytes: int, file: Path) -> dict[str, Any]:
    """The same for random bytes and without the system's cache; None where system or disk know no such way."""
    if not hasattr(os, "O_DIRECT"):
        return {"seconds": None}
    block = mmap.mmap(-1, BLOCK)  # it begins at a page, as such writes must
    block.write(random.Random(0).randbytes(BLOCK))
    begun = time.perf_counter()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    except OSError:
        return {"seconds": None}
    try:
        for _ in range(-(-n_bytes // BLOCK)):
            os.write(handle, block)
        os.fsync(handle)
        seconds = time.perf_counter() - begun
    finally:
        os.close(handle)
        file.unlink()
    return {"seconds": seconds}


def save_and_wait(training: Training, saver: Saver) -> dict[str, Any]:
    """A checkpoint that training waits for."""
    training.tidied_by(saver)
    training.step()
    begun = time.perf_counter()
    saver.save(training.run)
    pause = time.perf_counter() - begun
    return {"pause": pause, "seconds": training.written.pop()["seconds"]}


def save_aside(training: Training, saver: Saver) -> dict[str, Any]:
    """A checkpoint during which training goes on; how long it stood still, and how long the steps took meanwhile."""
    training.tidied_by(saver)
    usual = [training.timed_step() for _ in range(3)]
    begun = time.perf_counter()
    saver.save(training.run)
    pauses, steps = [time.perf_counter() - begun], []
    while not training.written:
        steps.append(training.timed_step())
        begun = time.perf_counter()
        saver.settle(training.run)
        pauses.append(time.perf_counter() - begun)
    saver.deleted()
    seconds = training.written.pop()["seconds"]
    lost = sum(steps) - len(steps) * statistics.median(usual)
    return {"pause": sum(pauses), "seconds": seconds, "lost": lost, "pauses": pauses, "usual": usual, "steps": steps}


# ---- all sides -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace, folder: Path) -> Result:
    """All sides in turns, in this process."""
    from gptloom.train.disk import free_bytes
    from gptloom.train.saver import Saver
    from gptloom.train.snapshot import About

    with at_work(arguments, folder) as (training, config):
        if free_bytes(folder) < 4 * training.n_bytes:
            raise RuntimeError(f"{folder} has no room for two checkpoints and a file: --folder names another disk")

        def describe(run: Run, folder: Path) -> About:
            return About(config, None, {}, {})

        waiting, aside = Saver(describe), Saver(describe, aside=True)
        sides: dict[str, Callable[[int], dict[str, Any]]] = {
            PLAIN: lambda turn: write_plain(training.tensors, folder / "plain"),
            UNCACHED: lambda turn: write_uncached(training.n_bytes, folder / "plain"),
            WAITED: lambda turn: save_and_wait(training, waiting),
            ASIDE: lambda turn: save_aside(training, aside),
        }
        first = save_aside(training, aside)
        raw = {
            FIRST: [first],
            **harness.take_turns({name: synced(side) for name, side in sides.items()}, arguments.rounds),
        }
        megabytes = training.n_bytes / 1e6
    if None in (found["seconds"] for found in raw[UNCACHED]):
        del raw[UNCACHED]
    order = [name for name in (PLAIN, UNCACHED, WAITED, FIRST, ASIDE) if name in raw]
    table = {name: summary(raw[name], megabytes) for name in order}
    settings = {"model": arguments.model, "MB": round(megabytes, 1), "rounds": arguments.rounds}
    settings |= {"length": arguments.length, "file system": file_system(arguments.folder)}
    notes = ["tiny settings: the figures mean nothing and no target is judged"] if arguments.tiny else []
    checks = [] if arguments.tiny else compare(table)
    return Result("checkpoint", settings, {f"{megabytes:,.0f} MB": table}, checks, notes, raw)


def synced(side: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
    """``side``, once the disk has taken what was written before."""

    def run(turn: int) -> dict[str, Any]:
        os.sync()
        return side(turn)

    return run


def summary(runs: list[dict[str, Any]], megabytes: float) -> Figures:
    """Medians over the rounds."""
    seconds = harness.median([run["seconds"] for run in runs])
    return {
        "s": seconds,
        "MB/s": harness.ratio(megabytes, seconds),
        "training stands s": harness.median([run.get("pause") for run in runs]),
        "steps lose s": harness.median([run.get("lost") for run in runs]),
    }


def compare(table: dict[str, Figures]) -> list[Check]:
    """The speed of the disk that a checkpoint reaches, and the share of its time for which training still stands."""
    speed = harness.ratio(table[WAITED]["MB/s"], table[PLAIN]["MB/s"])
    pause = harness.ratio(table[ASIDE]["training stands s"], table[WAITED]["s"])
    return [
        Check(f"{WAITED}, MB/s of the {PLAIN}", speed, TARGET_SPEED, "×"),
        Check(f"{ASIDE}, training stands still of the seconds of a {WAITED}", pause, TARGET_PAUSE, "×", at_most=True),
    ]


def file_system(folder: Path) -> str:
    """The kind of file system that ``folder`` lies on, as Linux names it; ``unknown`` elsewhere."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    there = folder.resolve()
    fields = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    above = [(len(point), kind) for _, point, kind, *_ in fields if there.is_relative_to(point)]
    return max(above)[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=256, help="tokens of the steps that go on (default: 256)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: the cores)")
    return harness.parse_disk_bench(parser, "gpt2")


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix=".bench-checkpoint-") as folder:
        result = measure(arguments, Path(folder))
    return harness.finish(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
