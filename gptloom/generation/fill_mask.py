"""Words for the masks of a text: what a model that sees both sides of a place (BERT) expects there.

Legend: B texts, T tokens, N masks, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.excerpt import beginning
from gptloom.config.model import ModelConfig
from gptloom.model.attention import Mask
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer

ROW_TOKENS = 8192  # of a forward pass, padding included


class Word(NamedTuple):
    """One possible word for a mask: a visible form of the token, its id and its probability."""

    text: str
    id: int
    probability: float


@dataclass(frozen=True)
class FilledText:
    """A text, and for each of its masks, in order, the likeliest words, likeliest first."""

    text: str
    masks: tuple[tuple[Word, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"text": self.text, "masks": [[word._asdict() for word in words] for words in self.masks]}


@torch.no_grad()
def fill_masks(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], top: int = 5) -> list[FilledText]:
    """The ``top`` likeliest words for every mask of every text.

    A text is read as in pretraining, between [CLS] and [SEP] where the vocabulary has them. Several masks of one text are
    filled each for itself, without knowledge of what fills the others. Probabilities are over the tokenizer's ids.

    Raises:
        UserError: the model writes from left to right, or was stored without its head for masked words; the tokenizer
            has no mask; a text has no mask, or more tokens than the context (every such text is named).
    """
    check_fills_masks(model.config)
    model.eval()
    rows = _encode(texts, tokenizer, model.config.context)
    found: dict[int, tuple[tuple[Word, ...], ...]] = {}
    for indices in _batches([len(row) for row in rows]):
        words = iter(_fill([rows[index] for index in indices], model, tokenizer, top))
        for index in indices:
            found[index] = tuple(next(words) for token_id in rows[index] if token_id == tokenizer.mask_id)
    return [FilledText(text, found[index]) for index, text in enumerate(texts)]


def check_fills_masks(config: ModelConfig) -> None:
    """UserError unless a model of this ``config`` was made to fill masks."""
    if config.mask != "bidirectional":
        what = "this model sees only what comes before a word (GPT), so it can't fill a mask: it writes on"
        raise UserError(Problem(what, mend='gptloom generate MODEL --prompt "..."'))
    if not config.masked_head:
        what = "this model was stored without its head for masked words (a bare BertModel)"
        raise UserError(Problem(what, mend="a folder saved from BertForMaskedLM or BertForPreTraining"))


def _encode(texts: Sequence[str], tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """Each text's ids, masks among them, between [CLS] and [SEP]; UserError names every text that does not do."""
    if tokenizer.mask_id is None:
        raise UserError(
            Problem("this model's tokenizer has no token for a mask", mend="a model trained with WordPiece")
        )
    mask = tokenizer.token_text(tokenizer.mask_id)
    first = [] if tokenizer.cls_id is None else [tokenizer.cls_id]
    last = [] if tokenizer.sep_id is None else [tokenizer.sep_id]
    rows, problems = [], []
    for number, (text, ids) in enumerate(zip(texts, tokenizer.encode_batch(texts, special=True), strict=True), start=1):
        where = f"text {number}" if len(texts) > 1 else None
        row = [*first, *ids, *last]
        rows.append(row)
        if tokenizer.mask_id not in ids:
            example = f'write {mask} where a word is missing: "The capital of {mask} is Paris."'
            problems.append(Problem(f"there is no {mask} in {beginning(text, 60)!r}", where, example))
        if len(row) > context:
            around = f", {len(row) - len(ids)} of them around the text" if len(row) > len(ids) else ""
            what = f"the text makes {len(row):,} tokens{around}; this model's context is {context:,}"
            problems.append(Problem(what, where, f"a text of at most {context - len(row) + len(ids):,} tokens"))
    if problems:
        raise UserError(*problems)
    return rows


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of like length, so many that they have at most ``ROW_TOKENS`` tokens when padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):  # the longest comes last
        if batch and (len(batch) + 1) * lengths[index] > ROW_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _fill(rows: Sequence[list[int]], model: Transformer, tokenizer: Tokenizer, top: int) -> list[tuple[Word, ...]]:
    """The words of every mask of ``rows``, in reading order."""
    ids, real = pad_rows(rows, model.head_weight.device)
    hidden = model.hidden(ids, mask=None if bool(real.all()) else Mask(key_valid=real))  # [B, T, D]
    # Only the masks meet the vocabulary, and rows that no token has are left out.
    logits = model.logits(hidden[real & (ids == tokenizer.mask_id)])[:, : tokenizer.vocab_size]  # [N, V]
    best = logits.float().softmax(-1).topk(min(top, tokenizer.vocab_size))
    return [
        tuple(Word(tokenizer.token_text(i), i, p) for i, p in zip(places, shares, strict=True))
        for places, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def pad_rows(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids [B, T] padded at the right with 0, and bool [B, T], True where there is a token."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
