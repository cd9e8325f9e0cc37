"""A tiny training on poisoned text as a process of its own: ``python guarded_training.py FOLDER FIRST END [KILL]``.

The windows of the steps FIRST to END (in the order in which nothing is left out) hold an id that makes the loss infinite.
KILL is where the process kills itself: ``decided`` (a roll-back is written and nothing of it done), ``back`` (done),
``refused-N`` (the Nth refused step), ``step-N`` (when step N is done). Goes on from FOLDER where there is a run.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.data.batches import TokenBatches
from gptloom.data.shards import ShardWriter, TokenShards, read_header
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model, save_model
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.train.checkpoint import MODEL, masters_state, read_checkpoint, restore, save_checkpoint
from gptloom.train.hooks import Save
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.rollback import WayBack, not_taken_back
from gptloom.train.run import EVENTS, LoopSettings, Run, RunState
from gptloom.train.schedules import Schedule

ROWS, T, V, STEPS = 8, 12, 29, 48
POISON = V - 1
CONFIG = ModelConfig(vocab_size=V, context=T, n_layer=1, n_head=2, d_model=16, d_ff=32, dropout=0.1)


class Poisoned(NextToken):
    """Next token, infinite where the poison is."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (loss,) = super().loss(model, batch).values()
        return {"next_token": loss * torch.inf if (batch.ids == POISON).any() else loss}


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


def put_back(run: Run, checkpoint: Path, document: dict[str, Any]) -> None:
    model, _ = load_model(checkpoint / MODEL)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            run.optimizer.masters.tensors[name].copy_(tensor)
    run.optimizer.masters.refresh()
    restore(run, checkpoint, document)


class Killer:
    def __init__(self, where: str) -> None:
        self.where, self.refused = where, 0

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        self.refused += event.get("action") == "update skipped"
        now = {
            "decided": "to_step" in event,
            "back": event["type"] == "start" and event["attempt"] > 0,
            f"refused-{self.refused}": event["type"] == "guard",
            f"step-{event['step']}": event["type"] == "train",
        }
        if now.get(self.where):
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, first: int, end: int, kill: str = "", keep: int = 2, dtype: torch.dtype = torch.float32) -> Run:
    batches = poisoned_batches(folder.with_name(folder.name + "-data"), first, end)
    settings = LoopSettings(STEPS, Schedule(STEPS, warmup=3), micro_batch=3)
    events = read_events(folder / EVENTS)
    kept = not_taken_back(finished_checkpoints(folder), events)
    if kept:
        last = kept[max(kept)]
        document = read_checkpoint(last)
        model, run = load_model(last / MODEL)[0], Run(folder, settings, RunState(**document["run"]))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        model, run = Transformer.initialised(CONFIG, seed=4), Run(folder, settings, RunState())
    run.optimizer = Optimizer(model, OptimizerSettings(kind="muon", lr=1e-2), dtype)
    if kept:
        restore(run, last, document)
    run.way_back = WayBack(batches, put_back, events)

    def save(run: Run) -> None:
        save_checkpoint(run, lambda path: save_model(path, masters_state(run), CONFIG), {})

    return fit(run, Poisoned(), run.way_back.batch, model, run.optimizer, [Save(save, 6, keep), Killer(kill)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5])
