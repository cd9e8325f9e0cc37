"""Loss on held-out batches, by the same objective that trains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptloom.data.batch import Batch
from gptloom.train.objective import Objective


@dataclass(frozen=True)
class Validation:
    """What a held-out text costs: the loss (weighted over terms) and each term's, per item; nats and UTF-8 bytes in all."""

    loss: float
    losses: dict[str, float]
    items: int  # predictions that count
    nats: float
    n_bytes: int | None  # of what was predicted; None where the ids stand for no text

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Independent of the tokenizer: bits to predict the text over its UTF-8 bytes."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else None


@torch.no_grad()
def validate(
    objective: Objective,
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    id_bytes: Tensor | None = None,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Validation:
    """Runs ``model`` in eval mode over (at most ``limit``) batches. ``id_bytes`` [V]: UTF-8 bytes each id stands for."""
    training = model.training
    model.eval()
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    items, n_bytes = 0, 0
    for index, batch in enumerate(batches):
        if limit is not None and index >= limit:
            break
        for term, count in objective.count(batch).items():
            counts[term] = counts.get(term, 0.0) + count
        for term, value in objective.loss(model, batch.to(device)).items():
            sums[term] = sums.get(term, 0.0) + float(value)
        counted = batch.weights > 0
        items += int(counted.sum())
        if id_bytes is not None:
            n_bytes += int(id_bytes[batch.targets[counted]].sum())
    model.train(training)
    losses = {term: sums[term] / counts[term] for term in sums if counts[term] > 0}
    if not losses:
        raise ValueError("the validation batches hold nothing to predict")
    loss = sum(objective.weights[term] * value for term, value in losses.items())
    return Validation(loss, losses, items, sum(sums.values()), n_bytes or None)
