"""A tiny training on poisoned text as a process of its own: ``python guarded_training.py FOLDER FIRST END [KILL]``.

The windows of the steps FIRST to END (in the order in which nothing is left out) hold an id that makes the loss infinite.
KILL is where the process kills itself: ``decided`` (a roll-back is written and nothing of it done), ``back`` (done),
``refused-N`` (the Nth refused step), ``step-N`` (when step N is done). Goes on from FOLDER where there is a run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import EVENTS
from gptloom.data.batch import Batch
from gptloom.data.batches import TokenBatches
from gptloom.data.shards import ShardWriter, TokenShards, read_header
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.events import read_events
from gptloom.train.assemble import fresh_model
from gptloom.train.checkpoint import read_checkpoint, restore
from gptloom.train.hooks import Save
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel
from gptloom.train.rollback import WayBack, not_taken_back
from gptloom.train.run import Hook, LoopSettings, Run, RunState
from gptloom.train.saver import Saver
from gptloom.train.schedules import Schedule
from gptloom.train.snapshot import About

ROWS, T, V, STEPS = 8, 12, 29, 48
POISON = V - 1
CONFIG = ModelConfig(vocab_size=V, context=T, n_layer=1, n_head=2, d_model=16, d_ff=32, dropout=0.1)


class Poisoned(NextToken):
    """Next token, ``factor`` times as large where the poison is."""

    factor = float("inf")

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (loss,) = super().loss(model, batch).values()
        return {"next_token": loss * self.factor if (batch.ids == POISON).any() else loss}


def poisoned_batches(folder: Path, first: int, end: int) -> TokenBatches:
    """Batches of tokens in ``folder``; the windows of the steps from ``first`` to ``end`` hold the poison."""
    folder.mkdir(parents=True, exist_ok=True)

    def written(ids: np.ndarray) -> TokenBatches:
        with ShardWriter(folder / "tokens.bin", np.dtype("<u2")) as writer:
            writer.append(ids, None)
        return TokenBatches(TokenShards([read_header(folder / "tokens.bin")]), T, ROWS, seed=3)

    ids = np.random.default_rng(0).integers(0, POISON, 40_000)
    places = [place for step in range(first, end) for place in written(ids).describe(step)]
    ids[[place.start + 1 for place in places]] = POISON
    return written(ids)


class Killer:
    def __init__(self, where: str) -> None:
        self.where, self.refused = where, 0

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        self.refused += event.get("action") == "update skipped"
        now = {
            "decided": "to_step" in event,
            "back": event["type"] == "start" and event.get("attempt", 0) > 0,
            f"refused-{self.refused}": event["type"] == "guard",
            f"step-{event['step']}": event["type"] == "train",
        }
        if now.get(self.where):
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    folder: Path,
    first: int,
    end: int,
    kill: str = "",
    *,
    keep: int = 2,
    dtype: torch.dtype = torch.float32,
    kind: str = "muon",
    dropout: float = 0.1,
    factor: float = float("inf"),
    window: int = 100,
    parallel: Parallel | None = None,
    hooks: Sequence[Hook] = (),
) -> Run:
    parallel = parallel or Parallel.alone()
    data = folder.with_name(folder.name + "-data")
    parallel.world.first_does(lambda: poisoned_batches(data, first, end) and None)
    batches = TokenBatches(TokenShards([read_header(data / "tokens.bin")]), T, ROWS, seed=3)
    settings = LoopSettings(STEPS, Schedule(STEPS, warmup=3), micro_batch=3)
    events = read_events(folder / EVENTS)
    kept = not_taken_back(finished_checkpoints(folder), events)
    folder.mkdir(parents=True, exist_ok=True)
    document = read_checkpoint(kept[max(kept)]) if kept else {"run": {}}
    run = Run(folder, settings, RunState(**document["run"]), parallel)
    model = fresh_model(CONFIG.model_copy(update={"dropout": dropout}), 4, parallel, dtype)
    run.optimizer = Optimizer(model, OptimizerSettings(kind=kind, lr=1e-2), dtype, parallel)  # type: ignore[arg-type]
    if kept:
        restore(run, kept[max(kept)], document)
    run.way_back = WayBack(batches, restore, events)
    saver = Saver(lambda run, path: About(CONFIG, None, {}, {}))
    run.guard.window = window
    objective = Poisoned(parallel.cross_entropy)
    objective.factor = factor
    return fit(run, objective, run.way_back.batch, model, run.optimizer, [Save(saver, 6, keep), Killer(kill), *hooks])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5])
