"""A tiny training as a process of its own, to be killed: ``python tiny_training.py FOLDER KIND STEPS [PAUSE [aside]]``.

Goes on from the last checkpoint of FOLDER where there is one. KIND: adamw or muon. PAUSE: seconds each step waits.
aside: checkpoints are written while training goes on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.reference import finished_checkpoints
from gptloom.model.transformer import Transformer
from gptloom.train.checkpoint import read_checkpoint, restore
from gptloom.train.hooks import Save
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.saver import Saver
from gptloom.train.schedules import Schedule
from gptloom.train.snapshot import About

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32, dropout=0.2)


def batch_of(step: int) -> Batch:
    ids = torch.randint(29, (8, 13), generator=torch.Generator().manual_seed(step))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(8, 12))


def main(folder: Path, kind: str, steps: int, pause: float, aside: bool = False) -> None:
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if kind == "muon" else torch.float32
    settings = LoopSettings(steps, Schedule(steps, warmup=3), micro_batch=3, log_every=2)
    kept = finished_checkpoints(folder)
    if kept:
        last = kept[max(kept)]
        document = read_checkpoint(last)
        run = Run(folder, settings, RunState(**document["run"]))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder, settings, RunState())
    model = Transformer.initialised(CONFIG, seed=4)
    run.optimizer = Optimizer(model, OptimizerSettings(kind=kind, lr=1e-2), dtype)
    if kept:
        restore(run, last, document)

    saver = Saver(lambda run, folder: About(CONFIG, None, {}, {}), aside=aside)

    def slow(event: dict, run: Run) -> None:
        if event["type"] == "train":
            print(event["step"], flush=True)
            time.sleep(pause)

    fit(run, NextToken(), batch_of, model, run.optimizer, [Save(saver, every=2, keep_last=2), slow])


if __name__ == "__main__":
    path, kind, steps, *rest = sys.argv[1:]
    main(Path(path), kind, int(steps), float(rest[0]) if rest else 0.0, rest[1:] == ["aside"])
