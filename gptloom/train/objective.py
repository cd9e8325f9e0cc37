"""What a training step minimises: named terms, each a sum over items and a count of them.

The loop counts the items of the whole global batch before the first backward pass and divides each term's sum by its
own count, in one place. So no objective ever takes a mean, and the result does not depend on how a batch was cut up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
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


class MaskedWords:
    """-log p(hidden word), and -log p(pair label) where sentences come in pairs: the pretraining of BERT.

    Only the chosen places (weight above 0) meet the vocabulary head. ``pairs`` is False for text without pairs.
    """

    def __init__(self, pairs: bool, cross_entropy: Callable[..., Tensor] = cross_entropy) -> None:
        self.pairs, self.cross_entropy = pairs, cross_entropy
        self.weights: Mapping[str, float] = {"masked_words": 1.0, "pair": 1.0} if pairs else {"masked_words": 1.0}

    def count(self, batch: Batch) -> dict[str, float]:
        counts = {"masked_words": float(batch.weights.sum())}
        if self.pairs:
            counts["pair"] = float((_pair_labels(batch) >= 0).sum())
        return counts

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Transformer)
        hidden = model.hidden(batch.ids, batch.positions, _mask(batch), segments=batch.segment_ids)
        chosen = batch.weights > 0
        words = self.cross_entropy(
            model.head_input(hidden[chosen]),
            model.head_weight,
            batch.targets[chosen],
            batch.weights[chosen],
            model.config.logit_softcap,
            model.head_bias,
        )
        if not self.pairs:
            return {"masked_words": words}
        scores = model.pair_logits(hidden)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        pair = F.cross_entropy(wide, _pair_labels(batch), reduction="sum", ignore_index=-1)
        return {"masked_words": words, "pair": pair}


def _pair_labels(batch: Batch) -> Tensor:
    assert batch.pair_labels is not None, "these batches hold no pairs"
    return batch.pair_labels


def _mask(batch: Batch) -> Mask | None:
    if batch.padding_mask is None and batch.document_ids is None:
        return None
    return Mask(key_valid=batch.padding_mask, documents=batch.document_ids)
