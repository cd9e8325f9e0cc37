"""Batches of masked pretraining: text in which words are hidden, alone or as pairs of sentences.

B rows, T = context tokens. ``ids`` are what the model sees, ``targets`` what stood there, ``weights`` 1 where a word was
chosen. Everything about an example is drawn from (seed, source, round or epoch, number of the example).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.data.batch import Batch
from gptloom.data.batches import Tokens
from gptloom.data.built import TrainingShards
from gptloom.data.masked_examples import (
    EXTRA,
    NO_PAIR,
    PairChoice,
    PairedSentences,
    examples_of,
    lay_out,
)
from gptloom.data.masking import Bools, Masking, MaskVocabulary, mask_words
from gptloom.data.order import Words, hash_words
from gptloom.data.ordered import OrderedBatches, WindowPlace, weighted
from gptloom.data.sentences import read_sentences
from gptloom.data.shards import TokenShards
from gptloom.data.step_sizes import StepSizes

Ints = NDArray[np.int64]

SOURCE, MASKS = 3, 4  # what a draw decides
EVAL_SEED = 0


@dataclass(frozen=True)
class MaskedPlace(WindowPlace):
    """Where one row comes from; ``start`` to ``end`` are the tokens of A."""

    second: tuple[int, int] | None  # first token of B and one past its last, in the source's tokens
    pair_label: int  # as in Batch.pair_labels


class MaskedBatches(OrderedBatches):
    """The global batch of every step, as a pure function of (seed, step, excluded).

    An epoch reads each example of a source once. ``masking.duplicates`` different versions of a source are made (other
    pairs, other borders of windows) and read in turn, a version an epoch; static masking hides the same words each time
    a version comes round, dynamic masking others in every epoch. Raises ``ValueError`` for a source without a single
    example (``check_enough_masked`` says it to users), ``UserError`` for shards without sentences where pairs are wanted.
    """

    def __init__(
        self,
        shards: TokenShards | Sequence[tuple[TokenShards, float]],
        context: int,
        windows_per_step: int | StepSizes,
        seed: int,
        vocabulary: MaskVocabulary,
        *,
        pairs: PairChoice,
        masking: Masking | None = None,
    ) -> None:
        """``shards``: one sequence, or several with weights; ``masking``: 15 % of single tokens, dynamic, if None."""
        sources = weighted(shards)
        seeds = [int(hash_words(seed, SOURCE, index)[0]) for index in range(len(sources))]
        self._examples = [
            examples_of(tokens, weight, pairs, context, own)
            for (tokens, weight), own in zip(sources, seeds, strict=True)
        ]
        super().__init__(sources, [own.n_examples for own in self._examples], context, windows_per_step, seed)
        self.vocabulary = vocabulary
        self.pairs = pairs
        self.masking = Masking() if masking is None else masking

    def batch(self, step: int, excluded: Sequence[int] = ()) -> Batch:
        """The global batch of a step (the first is 0), without the ``excluded`` positions of the order."""
        _, sources, epochs, windows = self._windows(step, excluded)
        spans, labels = self._places(sources, epochs, windows)
        ids, segments = (np.empty((len(spans), self.context), dtype=np.int64) for _ in range(2))
        real = np.empty((len(spans), self.context), dtype=bool)
        for index, (tokens, _) in enumerate(self.sources):
            mine = sources == index
            ids[mine], segments[mine], real[mine] = lay_out(
                tokens, spans[mine], labels[mine], self.context, self.vocabulary
            )
        keys = _mask_keys(self.seed, sources, self.masking.round_of(epochs), windows)
        return _masked_batch(ids, segments, real, labels, keys, self.vocabulary, self.masking)

    def describe(self, step: int, excluded: Sequence[int] = ()) -> list[MaskedPlace]:
        """Where each row of ``batch(step, excluded)`` comes from."""
        positions, sources, epochs, windows = self._windows(step, excluded)
        spans, labels = self._places(sources, epochs, windows)
        columns = (column.tolist() for column in (positions, sources, epochs, spans, labels))
        return [
            MaskedPlace(position, source, epoch, a, a_end, None if label == NO_PAIR else (b, b_end), label)
            for position, source, epoch, (a, a_end, b, b_end), label in zip(*columns, strict=True)
        ]

    def _places(self, sources: Ints, epochs: Ints, windows: Ints) -> tuple[Ints, Ints]:
        """(tokens of A and B [rows, 4], pair labels [rows])."""
        spans, labels = np.empty((len(sources), 4), dtype=np.int64), np.empty(len(sources), dtype=np.int64)
        for index, examples in enumerate(self._examples):
            mine = sources == index
            spans[mine], labels[mine] = examples.places(epochs[mine] % self.masking.duplicates, windows[mine])
        return spans, labels


def masked_eval_batches(
    tokens: Tokens,
    context: int,
    rows: int,
    vocabulary: MaskVocabulary,
    *,
    pairs: PairChoice,
    masking: Masking | None = None,
    seed: int = EVAL_SEED,
) -> Iterator[Batch]:
    """Every example of ``tokens`` once, with the same words hidden in every sweep and for every number of ``rows``.

    Without pairs every token is in exactly one example, the last of which may be shorter. All batches have one shape,
    [min(rows, examples), T]; what is left over in the last is filled with empty texts of weight 0 and no pair label.
    Raises ``ValueError`` when there is no example.
    """
    masking = Masking() if masking is None else masking
    spans, labels = _eval_places(tokens, context, pairs, seed)
    rows = min(rows, len(spans))
    missing = -len(spans) % rows
    spans = np.concatenate([spans, np.zeros((missing, 4), dtype=np.int64)])
    labels = np.concatenate([labels, np.full(missing, NO_PAIR, dtype=np.int64)])
    for first in range(0, len(spans), rows):
        part = slice(first, first + rows)
        ids, segments, real = lay_out(tokens, spans[part], labels[part], context, vocabulary)
        keys = _mask_keys(seed, 0, 0, np.arange(first, first + rows))
        yield _masked_batch(ids, segments, real, labels[part], keys, vocabulary, masking)


def _eval_places(tokens: Tokens, context: int, pairs: PairChoice, seed: int) -> tuple[Ints, Ints]:
    if pairs != "none":
        assert isinstance(tokens, TokenShards), "only shards know where sentences end"
        found = PairedSentences(tokens, 1.0, pairs, context, seed).round(0)
        return found.spans, found.labels.astype(np.int64)
    length = context - EXTRA[pairs]
    if length < 1 or tokens.n_tokens < 1:
        raise ValueError(f"{tokens.n_tokens} tokens in windows of {length} are nothing to predict")
    starts = np.arange(0, tokens.n_tokens, length, dtype=np.int64)
    ends = np.minimum(starts + length, tokens.n_tokens)
    return np.stack([starts, ends, ends, ends], axis=1), np.full(len(starts), NO_PAIR, dtype=np.int64)


def _mask_keys(seed: int, sources: int | Ints, rounds: int | Ints, windows: Ints) -> Words:
    return hash_words(seed, MASKS, sources, rounds, windows)


def _masked_batch(
    ids: Ints, segments: Ints, real: Bools, labels: Ints, keys: Words, vocabulary: MaskVocabulary, masking: Masking
) -> Batch:
    """Hides words; the padding mask is left out where no row of unpaired text needs it."""
    seen, chosen = mask_words(ids, real, keys, vocabulary, masking)
    paired = bool((labels != NO_PAIR).any())
    return Batch(
        torch.from_numpy(seen),
        torch.from_numpy(ids),
        torch.from_numpy(chosen.astype(np.float32)),
        segment_ids=torch.from_numpy(segments),
        padding_mask=None if real.all() and not paired else torch.from_numpy(real),
        pair_labels=torch.from_numpy(labels),
    )


def check_enough_masked(shards: TrainingShards, context: int, pairs: PairChoice, *, validates: bool = True) -> None:
    """Raises ``UserError`` with every reason why ``shards`` make no masked examples: the twin of ``check_enough``."""
    problems: list[Problem] = []
    needed = EXTRA[pairs] + (1 if pairs == "none" else 2)
    if context < needed:
        what = f"a context of {context} has no room for [CLS], [SEP] and text"
        raise UserError(Problem(what, where="--context", mend=f"--context {needed} or more; 128 is usual"))
    if not shards.train:
        problems.append(Problem("no training text", where="--data", mend="more text"))
    for tokens, weight in shards.train:
        which = f" of weight {weight:g}" if len(shards.train) > 1 else ""
        problems += _lacking(tokens, context, pairs, which)
    if validates and (shards.valid is None or shards.valid.n_tokens < 2):
        mend = "more text, --valid FILE, a larger --valid-fraction, or --split none to train without validation"
        problems.append(Problem("the validation text is empty", where=shards.rule, mend=mend))
    elif validates and shards.valid is not None and pairs != "none":
        problems += _unknown_sentences(shards.valid)
    if problems:
        raise UserError(*problems)


def _unknown_sentences(tokens: TokenShards) -> list[Problem]:
    try:
        read_sentences(tokens)
    except UserError as error:
        return error.problems
    return []


def _lacking(tokens: TokenShards, context: int, pairs: PairChoice, which: str) -> list[Problem]:
    """What keeps one training source from making examples."""
    if pairs == "none":
        if tokens.n_tokens >= context - EXTRA[pairs]:
            return []
        what = f"the training text{which} has {tokens.n_tokens:,} tokens, less than one window of context {context:,}"
        return [Problem(what, where="--data", mend=f"more text, or --context {max(3, tokens.n_tokens)} or less")]
    if problems := _unknown_sentences(tokens):
        return problems
    n_documents = read_sentences(tokens).n_documents
    if n_documents == 0:
        return [Problem(f"the training text{which} has no sentence", where="--data", mend="more text")]
    if pairs == "nsp" and n_documents == 1:
        what = f"the training text{which} is one document, and --pairs nsp takes half of its B's from another"
        mend = "--document-separator TEXT, several files, --pairs order or --pairs none"
        return [Problem(what, where="--data", mend=mend)]
    return []
