"""A peer of ``sft.py``: ``litgpt finetune_lora``. Nothing of gptloom is imported; any Python with litgpt can run it.

    python bench/sft_litgpt.py SETTINGS

SETTINGS are a JSON object (``sft.py`` makes it); what was measured is printed as one. The model folder is first converted
by litgpt's own script, where that was not yet done. Rows are rendered by litgpt's Alpaca style, tokenized and masked by its
own data set. The run is broken off after the last timed step, before it would merge and write adapters.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import SFTDataset, get_sft_collate_fn
from litgpt.data.json_data import JSON
from litgpt.finetune import lora
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

ALL_STEPS = 10**6  # never reached


class EnoughSteps(Exception):
    """All timed steps are done."""


class InOrder(JSON):
    """litgpt's rows of a JSON file in the order of the file; the first of them also stand for the held-out ones."""

    def get_splits(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        columns = ("instruction", "input", "output")
        read = json.loads(self.json_path.read_text(encoding="utf-8"))
        rows = [{name: row[name] for name in columns} for row in read]
        return rows, rows[:1]

    def train_dataloader(self) -> DataLoader:
        collate = get_sft_collate_fn(max_seq_length=self.max_seq_length, ignore_index=self.ignore_index)
        return DataLoader(self.train_dataset, self.batch_size, num_workers=self.num_workers, collate_fn=collate)


class Steps:
    """When each step ended, and its loss: the mean over all tokens that count, whatever rows a forward pass has."""

    def __init__(self, steps: int) -> None:
        self.steps, self.sums = steps, [0.0, 0]
        self.ends: list[float] = []
        self.losses: list[float] = []
        self._loss = lora.chunked_cross_entropy

    def loss(self, logits: Any, targets: torch.Tensor, **others: Any) -> torch.Tensor:
        """litgpt's own, noted."""
        loss = self._loss(logits, targets, **others)
        if torch.is_grad_enabled():
            count = int((targets != -100).sum())
            self.sums = [self.sums[0] + count * float(loss.detach()), self.sums[1] + count]
        return loss

    def after_step(self, *_: Any) -> None:
        self.ends.append(time.time())
        self.losses.append(self.sums[0] / self.sums[1])
        self.sums = [0.0, 0]
        if len(self.ends) == self.steps:
            raise EnoughSteps


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Makes the steps: the moment in which each ended, its loss and its tokens without padding."""
    torch.set_num_threads(settings["threads"])
    model = Path(settings["model"])
    if not (model / "lit_model.pth").is_file():
        convert_hf_checkpoint(model, model_name=settings["config"])
    options = settings["options"]
    workers = {"num_workers": options["workers"]} if "workers" in options else {}
    data = InOrder(Path(settings["rows"]), mask_prompt=True, val_split_fraction=0.5, prompt_style="alpaca", **workers)
    noted = Steps(settings["steps"])
    lora.chunked_cross_entropy = noted.loss
    hook = register_optimizer_step_post_hook(noted.after_step)
    optimizer = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    with suppress(EnoughSteps):
        lora.setup(
            model,
            Path(settings["out"]),
            precision=options.get("precision"),
            data=data,
            train=TrainArgs(
                save_interval=None,
                global_batch_size=settings["batch"],
                micro_batch_size=settings["batch"] if options.get("together") else 1,
                lr_warmup_steps=1,
                epochs=2,
                max_steps=ALL_STEPS,
                max_seq_length=settings["max_length"],
            ),
            eval=EvalArgs(interval=ALL_STEPS, max_new_tokens=1, max_iters=1, final_validation=False),
            optimizer={"class_path": "torch.optim.AdamW", "init_args": optimizer},
            seed=settings["seed"],
        )
    hook.remove()
    tokens, learned = counts(data.train_dataset, settings["batch"])
    return {
        "ends": noted.ends,
        "losses": noted.losses,
        "tokens": tokens,
        "learned": learned,
        "peak_bytes": harness.peak_bytes(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("litgpt", "lightning", "torch")},
    }


def counts(rows: SFTDataset, batch: int) -> tuple[list[int], list[int]]:
    """Of each step, the tokens, and those that count in the loss."""
    pairs = [(len(row["input_ids"]), int((row["labels"] != -100).sum())) for row in (rows[i] for i in range(len(rows)))]
    steps = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
    return [sum(a for a, _ in step) for step in steps], [sum(b for _, b in step) for step in steps]


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
