"""The peers of ``char_recipe.py``, each call a process of its own; nothing of gptloom is imported here.

    python bench/char_peers.py train DATA MODEL SETTINGS      # transformers GPT-2 in a plain loop: what is timed
    python bench/char_peers.py loss-transformers DATA MODEL   # its loss on the whole validation split
    python bench/char_peers.py loss-nanogpt DATA CKPT PATH    # the same of the checkpoint that nanoGPT's train.py wrote

DATA is a folder in nanoGPT's form: ``train.bin`` and ``val.bin`` hold one uint16 id per character. SETTINGS are JSON.
The losses are means over every id of ``val.bin`` but the first as a target once, in fixed windows of the context.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def learning_rate(step: int, settings: dict[str, Any]) -> float:
    """nanoGPT's ``get_lr``: linear warm-up, then a cosine down to the lowest rate at the last step."""
    if step < settings["warmup"]:
        return settings["lr"] * (step + 1) / (settings["warmup"] + 1)
    done = (step - settings["warmup"]) / (settings["steps"] - settings["warmup"])
    return settings["lowest_lr"] + 0.5 * (1 + math.cos(math.pi * done)) * (settings["lr"] - settings["lowest_lr"])


def random_windows(ids: np.ndarray, rows: int, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [rows, context] from random places, with replacement, as nanoGPT draws them."""
    starts = torch.randint(len(ids) - context, (rows,)).tolist()
    windows = torch.from_numpy(np.stack([ids[start : start + context + 1] for start in starts]).astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def train(data: Path, out: Path, settings: dict[str, Any]) -> None:
    """nanoGPT's settings on ``transformers``: fp32, AdamW with decay on matrices and embeddings, a plain loop."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(settings["seed"])
    ids = np.memmap(data / "train.bin", dtype=np.uint16, mode="r")
    shape = {name: settings[name] for name in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")}
    drops = {f"{place}_pdrop": 0.0 for place in ("resid", "embd", "attn")}
    model = GPT2LMHeadModel(GPT2Config(use_cache=False, bos_token_id=0, eos_token_id=0, **shape, **drops))
    model.train()
    wide = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": wide, "weight_decay": settings["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=(0.9, settings["beta2"]), fused=True)
    for step in range(settings["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        inputs, targets = random_windows(ids, settings["batch"], settings["n_positions"])
        logits = model(inputs).logits
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.save_pretrained(out)


@torch.no_grad()
def whole_split_loss(logits_of: Callable[[Tensor], Tensor], ids: np.ndarray, context: int) -> float:
    """Nats a character over all of ``ids`` but the first, in windows that lie end to end; the last may be shorter."""
    tensor = torch.from_numpy(ids.astype(np.int64))
    inputs, targets = tensor[:-1], tensor[1:]
    whole = len(inputs) // context * context
    parts = list(
        zip(inputs[:whole].view(-1, context).split(64), targets[:whole].view(-1, context).split(64), strict=True)
    )
    if whole < len(inputs):
        parts.append((inputs[None, whole:], targets[None, whole:]))
    total = 0.0
    for part, wanted in parts:
        logits = logits_of(part).float()
        total += F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").item()
    return total / len(targets)


def report(model: nn.Module, logits_of: Callable[[Tensor], Tensor], data: Path, context: int) -> None:
    """Prints loss and parameters; a tied matrix counts once."""
    model.eval()
    ids = np.fromfile(data / "val.bin", dtype=np.uint16)
    count = sum(parameter.numel() for parameter in model.parameters())
    loss = whole_split_loss(logits_of, ids, context)
    print(json.dumps({"loss": loss, "parameters": count, "predictions": len(ids) - 1}))


def loss_transformers(data: Path, folder: Path) -> None:
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder)
    report(model, lambda ids: model(ids).logits, data, model.config.n_positions)


def loss_nanogpt(data: Path, checkpoint: Path, checkout: Path) -> None:
    """Its classes come from the checkout; of its checkpoint only tensors and plain values are read."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**stored["model_args"]))
    model.load_state_dict(stored["model"])
    # Given targets it returns the scores of every place, without them only those of the last.
    report(model, lambda ids: model(ids, ids)[0], data, model.config.block_size)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["train", data, out, settings]:
            train(Path(data), Path(out), json.loads(settings))
        case ["loss-transformers", data, folder]:
            loss_transformers(Path(data), Path(folder))
        case ["loss-nanogpt", data, checkpoint, checkout]:
            loss_nanogpt(Path(data), Path(checkpoint), Path(checkout))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
