"""Run by an interpreter that has `trl`: what its SFTTrainer makes of conversations, and the gradients it trains with.

    python trl_peer.py MODEL_FOLDER ROWS.json OUT_FOLDER

ROWS.json holds [{"prompt": [messages], "completion": [messages]}, ...]. For the layouts "padded" and "packed" are written:
LAYOUT.json with the loss, and of each example the ids and those that are labels; LAYOUT.safetensors with the gradients.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(folder: str, rows: list[dict[str, list[dict[str, str]]]], out: Path) -> None:
    for layout in ("padded", "packed"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        config = SFTConfig(
            output_dir=str(out / "trainer"),
            per_device_train_batch_size=len(rows),
            max_length=None,
            padding_free=layout == "packed",
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        (inputs,) = trainer.get_train_dataloader()
        pairs = examples(
            inputs["input_ids"], inputs["labels"], inputs.get("attention_mask"), inputs.get("position_ids")
        )
        loss = trainer.compute_loss(trainer.model.train(), inputs)
        loss.backward()
        found = {"loss": loss.item(), "examples": pairs}
        (out / f"{layout}.json").write_text(json.dumps(found), encoding="utf-8")
        gradients = {name: weight.grad.contiguous() for name, weight in trainer.model.named_parameters()}
        save_file(gradients, out / f"{layout}.safetensors")


def examples(ids, labels, mask, positions) -> list[tuple[list[int], list[int]]]:  # type: ignore[no-untyped-def]
    """(ids, labels) of each example, whatever the layout."""
    if mask is not None:
        return [
            (row[real].tolist(), own[real].tolist()) for row, own, real in zip(ids, labels, mask.bool(), strict=True)
        ]
    begins = [*(positions[0] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
    return [(ids[0, begin:end].tolist(), labels[0, begin:end].tolist()) for begin, end in pairwise(begins)]


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3]))
