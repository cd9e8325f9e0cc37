"""The peer of ``finetune.py``: ``transformers`` and its ``Trainer``. Nothing of gptloom is imported here.

    python bench/finetune_trainer.py SETTINGS

SETTINGS are a JSON object (``finetune.py`` makes it); what was measured is printed as one. The model is opened by
``AutoModelForSequenceClassification``, batches are padded to their longest row by ``DataCollatorWithPadding``, and after
each epoch the rows of ``dev`` are scored and a checkpoint is written, of which the best is loaded in the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

# What dropout is called in BERT, GPT-2 and Qwen3; a model has some of these.
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    "embd_pdrop", "resid_pdrop", "attn_pdrop", "attention_dropout",
)  # fmt: skip
EVAL_BATCH = 64


def open_model(settings: dict[str, Any], tokenizer: Any) -> Any:
    """The body with a new head for two classes; its embedding grows where the rows' frame has ids beyond it."""
    config = AutoConfig.from_pretrained(settings["model"], num_labels=2)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, settings["dropout"])
    config.use_cache = False
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForSequenceClassification.from_pretrained(
        settings["model"], config=config, attn_implementation=settings["attention"], dtype=torch.float32
    )
    ids = 1 + max(settings["frame"], default=0)
    if ids > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(ids)
    return model


def encode(file: str, tokenizer: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file in SST-2's form, framed by the tokenizer itself or by the ids that ``frame`` names."""
    lines = [line.rpartition("\t") for line in Path(file).read_text(encoding="utf-8").splitlines()]
    texts, labels = [sentence for sentence, _, _ in lines], [int(label) for _, _, label in lines]
    longest = settings["max_length"]
    if settings["inputs"] == "bert":
        rows = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    else:
        start, extract = settings["frame"]
        plain = tokenizer(texts, truncation=True, max_length=longest - 2, add_special_tokens=False)["input_ids"]
        rows = [[start, *ids, extract] for ids in plain]
    return [{"input_ids": ids, "label": label} for ids, label in zip(rows, labels, strict=True)]


def accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(predicted.predictions.argmax(-1) == predicted.label_ids))}


def training_arguments(settings: dict[str, Any]) -> TrainingArguments:
    """AdamW with linear warm-up and decay, as ``gptloom finetune`` has it; the rest as ``Trainer`` has it."""
    return TrainingArguments(
        output_dir=settings["out"],
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch"],
        per_device_eval_batch_size=EVAL_BATCH,
        learning_rate=settings["lr"],
        lr_scheduler_type="linear",
        warmup_steps=settings["warmup"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip"],
        seed=settings["seed"],
        bf16=settings["bf16"],
        train_sampling_strategy="group_by_length" if settings["grouped"] else "random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Fine-tunes once: accuracy on ``dev`` after each epoch, and the seconds of ``Trainer.train``."""
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    torch.manual_seed(settings["seed"])  # of the head
    trainer = Trainer(
        model=open_model(settings, tokenizer),
        args=training_arguments(settings),
        train_dataset=encode(settings["train"], tokenizer, settings),
        eval_dataset=encode(settings["dev"], tokenizer, settings),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    found = trainer.train()
    trainer.save_model(f"{settings['out']}/final")
    return {
        "accuracies": [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry],
        "training_seconds": found.metrics["train_runtime"],
        "steps": trainer.state.global_step,
        "training_loss": found.training_loss,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
