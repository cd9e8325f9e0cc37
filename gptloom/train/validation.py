"""Loss on held-out batches, by the same objective that trains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptloom.data.batch import Batch
from gptloom.train.objective import Objective
from gptloom.train.parallel import Parallel


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
    parallel: Parallel | None = None,
) -> Validation:
    """Runs ``model`` in eval mode over (at most ``limit``) batches. ``id_bytes`` [V]: UTF-8 bytes each id stands for.

    The processes of ``parallel`` deal the batches out among themselves and all return the same.
    """
    parallel = parallel or Parallel.alone()
    training = model.training
    model.eval()
    sums = dict.fromkeys(objective.weights, 0.0)
    counts = dict.fromkeys(objective.weights, 0.0)
    items, n_bytes = 0, 0
    for hand in _dealt(itertools.islice(batches, limit), parallel.data_size):
        parallel.world.progress()
        mine = parallel.data_rank < len(hand)
        # Who has none left runs one all the same, for nothing: a sharded model needs every process for every layer.
        batch = hand[parallel.data_rank if mine else 0]
        terms = objective.loss(model, batch.to(device))
        if not mine:
            continue
        for term, count in objective.count(batch).items():
            counts[term] += count
            sums[term] += float(terms[term])
        counted = batch.weights > 0
        items += int(counted.sum())
        if id_bytes is not None:
            n_bytes += int(id_bytes[batch.targets[counted]].sum())
    model.train(training)
    totals = parallel.sum([*sums.values(), *counts.values(), items, n_bytes])
    sums = dict(zip(sums, totals, strict=False))
    counts = dict(zip(counts, totals[len(sums) :], strict=False))
    items, n_bytes = round(totals[-2]), round(totals[-1])
    losses = {term: sums[term] / counts[term] for term in sums if counts[term] > 0}
    if not losses:
        raise ValueError("the validation batches hold nothing to predict")
    loss = sum(objective.weights[term] * value for term, value in losses.items())
    return Validation(loss, losses, items, sum(sums.values()), n_bytes or None)


def _dealt(batches: Iterable[Batch], hands: int) -> Iterator[list[Batch]]:
    """One batch for each of ``hands``, round by round; the last round may be short."""
    rest = iter(batches)
    while hand := list(itertools.islice(rest, hands)):
        yield hand
