"""How well a model of BERT's kind guesses hidden words of a text: loss and accuracy.

How it counts. The text is read as for ``perplexity``, cut into windows that lie end to end, each between [CLS] and [SEP], and
in each 15 % of the tokens are to be guessed, as in pretraining: of these, 80 % are hidden, 10 % replaced and 10 % left as they
are. Which ones is the same in every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.data.batches import Tokens
from gptloom.data.masked_batches import masked_eval_batches
from gptloom.data.masking import MaskVocabulary
from gptloom.generation.fill_mask import check_fills_masks
from gptloom.model.attention import Mask
from gptloom.model.transformer import Transformer
from gptloom.tokenizer import Tokenizer

ROW_TOKENS = 8192  # of a forward pass


@dataclass(frozen=True)
class MaskedScore:
    """What a model makes of hidden words: the nats that guessing ``masked`` of them cost, and how many it got right."""

    nats: float
    masked: int
    correct: int

    @property
    def loss(self) -> float:
        """Nats per hidden word."""
        return self.nats / self.masked

    @property
    def accuracy(self) -> float:
        """Share of the hidden words that the model thinks likeliest."""
        return self.correct / self.masked

    def __add__(self, other: MaskedScore) -> MaskedScore:
        return MaskedScore(self.nats + other.nats, self.masked + other.masked, self.correct + other.correct)


class Guesses(NamedTuple):
    """Hidden words of one batch, each an id: what stood there, the likeliest of the model, and the nats of the former."""

    targets: Tensor  # int64 [N]
    guessed: Tensor  # int64 [N]
    nats: Tensor  # float32 [N]


def score_masked(model: Transformer, tokenizer: Tokenizer, tokens: Tokens, length: int | None = None) -> MaskedScore:
    """Hides words of ``tokens``, read in rows of ``length`` (default: the context), and scores the model's guesses.

    Raises:
        UserError: the model writes from left to right or lacks its head for masked words, the tokenizer has no mask, or
            nothing is to be guessed in so short a text.
    """
    score = MaskedScore(0.0, 0, 0)
    for targets, guessed, nats in guess(model, tokenizer, tokens, length):
        score += MaskedScore(float(nats.double().sum()), len(targets), int((guessed == targets).sum()))
    if not score.masked:
        raise UserError(Problem("there is nothing to guess in this text", mend="a text of at least a few words"))
    return score


@torch.no_grad()
def guess(model: Transformer, tokenizer: Tokenizer, tokens: Tokens, length: int | None = None) -> Iterator[Guesses]:
    """The guesses of ``score_masked``, batch by batch, on the CPU. Raises UserError as it does."""
    check_fills_masks(model.config)
    vocabulary = MaskVocabulary.of(tokenizer)
    if tokens.n_tokens < 1:
        return
    model.eval()
    length = length or model.config.context
    for batch in masked_eval_batches(tokens, length, max(1, ROW_TOKENS // length), vocabulary, pairs="none"):
        batch = batch.to(model.head_weight.device)
        mask = None if batch.padding_mask is None else Mask(key_valid=batch.padding_mask)
        hidden = model.hidden(batch.ids, mask=mask, segments=batch.segment_ids)
        chosen = batch.weights > 0
        logits, targets = model.logits(hidden[chosen]).float(), batch.targets[chosen]
        nats = F.cross_entropy(logits, targets, reduction="none")
        yield Guesses(targets.cpu(), logits.argmax(-1).cpu(), nats.cpu())
