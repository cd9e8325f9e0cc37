"""A peer of ``sft.py``: ``SFTTrainer`` of trl. Nothing of gptloom is imported; any Python with trl can run it.

    python bench/sft_trl.py SETTINGS

SETTINGS are a JSON object (``sft.py`` makes it); what was measured is printed as one. The rows are prompts and completions;
the trainer renders them by the chat template in the model's folder, tokenizes them and masks the prompts by itself.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import harness
import torch
import transformers
import trl
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class Note(TrainerCallback):
    """When each step ended, and the most memory until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.peak: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.ends.append(time.time())
        self.peak = harness.peak_bytes()


def read_rows(file: str) -> Dataset:
    """Conversations of one turn."""
    rows = json.loads(Path(file).read_text(encoding="utf-8"))
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in rows
        ]
    )


def training_arguments(settings: dict[str, Any]) -> SFTConfig:
    """What all sides share, and what ``settings["options"]`` change; the rest as trl has it."""
    shared = {
        "max_length": settings["max_length"],
        "per_device_train_batch_size": settings["batch"],
        "max_steps": settings["steps"],
        "learning_rate": settings["lr"],
        "lr_scheduler_type": "linear",
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["clip"],
        "seed": settings["seed"],
        "train_sampling_strategy": "sequential",  # the file is in the order that is wanted
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return SFTConfig(output_dir=settings["out"], **{**shared, **settings["options"]})


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Makes the steps: the moment in which each ended, its loss and its tokens without padding."""
    datasets.disable_progress_bars()
    torch.set_num_threads(settings["threads"])
    note = Note()
    trainer = SFTTrainer(
        model=settings["model"],
        args=training_arguments(settings),
        train_dataset=read_rows(settings["rows"]),
        callbacks=[note],
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "ends": note.ends,
        "losses": [entry["loss"] for entry in logged],
        "tokens": [after - before for before, after in pairwise([0, *(int(one["num_tokens"]) for one in logged)])],
        "learned": learned(trainer.train_dataset, settings["batch"]),
        "peak_bytes": note.peak,
        "threads": torch.get_num_threads(),
        "versions": {package.__name__: package.__version__ for package in (trl, transformers, torch)},
    }


def learned(rows: Dataset, batch: int) -> list[int]:
    """Of each step, the tokens that count in the loss."""
    counts = [sum(label != -100 for label in row["labels"]) for row in rows]
    return [sum(counts[start : start + batch]) for start in range(0, len(counts), batch)]


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
