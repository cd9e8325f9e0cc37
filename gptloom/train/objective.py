"""What a training step minimises: named terms, each a sum over items and a count of them.

The loop counts the items of the whole global batch before the first backward pass and divides each term's sum by its
own count, in one place. So no objective ever takes a mean, and the result does not depend on how a batch was cut up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from gptloom.data.batch import Batch
from gptloom.model.attention import Mask
from gptloom.model.transformer import Transformer
from gptloom.model.vocab_head import cross_entropy


class Objective(Protocol):
    """Two pure functions and a weight per term; the total loss is the sum of weight * sum / count over the terms."""

    weights: Mapping[str, float]

    def count(self, batch: Batch) -> dict[str, float]:
        """Items of each term in ``batch``, from labels alone."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The fp32 sum of each term over ``batch``, differentiable."""


class NextToken:
    """-log p(next token), weighted per token: the pretraining of every GPT.

    ``cross_entropy`` replaces that of one process where several share the head (``Parallel.cross_entropy``).
    """

    weights: Mapping[str, float] = {"next_token": 1.0}

    def __init__(self, cross_entropy: Callable[..., Tensor] = cross_entropy) -> None:
        self.cross_entropy = cross_entropy

    def count(self, batch: Batch) -> dict[str, float]:
        return {"next_token": float(batch.weights.sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Transformer)
        hidden = model.hidden(batch.ids, batch.positions, _mask(batch))
        cap = model.config.logit_softcap
        return {"next_token": self.cross_entropy(hidden, model.head_weight, batch.targets, batch.weights, cap)}


def _mask(batch: Batch) -> Mask | None:
    if batch.padding_mask is None and batch.document_ids is None:
        return None
    return Mask(key_valid=batch.padding_mask, documents=batch.document_ids)
